"""What the operations compute, in C99: name of a function -> its text. A network's file holds those that it calls.

Real values lie as [C, H, W], bits as [H, W, groups, words] (docs/format.md). `pixels` is H * W.
"""

from collections.abc import Mapping

GEOMETRY = """\
/* Sizes of a convolution or pooling, each as (vertical, horizontal). */
typedef struct {
    int32_t channels, height, width, filters, out_height, out_width;
    int32_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
    int32_t groups, pad_value, count_padding;
} geometry;"""

# A multiplication of 32 bits wraps by the cast alone, also where int is wider.
POPCOUNT = """\
#ifdef @MACRO@_BUILTIN_POPCOUNT
#define popcount(word) ((int32_t)__builtin_popcountl(word))
#else
static int32_t popcount(uint32_t word)
{
    word -= (word >> 1) & 0x55555555u;
    word = (word & 0x33333333u) + ((word >> 2) & 0x33333333u);
    word = (word + (word >> 4)) & 0x0f0f0f0fu;
    return (int32_t)((uint32_t)(word * 0x01010101u) >> 24);
}
#endif"""

KERNELS: Mapping[str, str] = {
    "threshold": """\
static void threshold(const float *x, const float *value, const uint8_t *flip, uint32_t *bits,
                      int32_t channels, int32_t pixels, int32_t groups)
{
    int32_t length = channels / groups, words = (length + 31) / 32, c, p;
    memset(bits, 0, sizeof(uint32_t) * (size_t)(pixels * groups * words));
    for (c = 0; c < channels; c++) {
        uint32_t bit = (uint32_t)1 << (c % length % 32);
        uint32_t *word = bits + c / length * words + c % length / 32;
        for (p = 0; p < pixels; p++) {
            float v = x[c * pixels + p];
            if (flip[c] ? v <= value[c] : v >= value[c])
                word[p * groups * words] |= bit;
        }
    }
}""",
    "parity_threshold": """\
static void parity_threshold(const float *x, const float *value, const uint8_t *flip, uint32_t *bits,
                             int32_t channels, int32_t pixels, int32_t groups, int32_t comparisons)
{
    int32_t length = channels / groups, words = (length + 31) / 32, c, p, t;
    memset(bits, 0, sizeof(uint32_t) * (size_t)(pixels * groups * words));
    for (c = 0; c < channels; c++) {
        uint32_t *word = bits + c / length * words + c % length / 32;
        for (p = 0; p < pixels; p++) {
            float v = x[c * pixels + p];
            uint32_t odd = 0;
            for (t = 0; t < comparisons; t++) {
                float limit = value[t * channels + c];
                odd ^= flip[c] ? v <= limit : v >= limit;
            }
            word[p * groups * words] |= odd << (c % length % 32);
        }
    }
}""",
    "unpack": """\
static void unpack(const uint32_t *bits, float *out, int32_t channels, int32_t pixels, int32_t groups)
{
    int32_t length = channels / groups, words = (length + 31) / 32, c, p;
    for (c = 0; c < channels; c++)
        for (p = 0; p < pixels; p++) {
            uint32_t word = bits[(p * groups + c / length) * words + c % length / 32];
            out[c * pixels + p] = word >> (c % length % 32) & 1u ? 1.0f : -1.0f;
        }
}""",
    "flatten_bits": """\
static void flatten_bits(const uint32_t *bits, uint32_t *out, int32_t channels, int32_t pixels, int32_t groups)
{
    int32_t length = channels / groups, words = (length + 31) / 32, c, p, k = 0;
    memset(out, 0, sizeof(uint32_t) * (size_t)((channels * pixels + 31) / 32));
    for (c = 0; c < channels; c++)
        for (p = 0; p < pixels; p++, k++) {
            uint32_t word = bits[(p * groups + c / length) * words + c % length / 32];
            out[k / 32] |= (word >> (c % length % 32) & 1u) << (k % 32);
        }
}""",
    "binary_conv2d": """\
static int32_t tap(const uint32_t *a, const uint32_t *w, int32_t length, int32_t words, int32_t pad_value)
{
    int32_t differing = 0, i;
    if (a == NULL && pad_value == 0)
        return 0;
    for (i = 0; i < words; i++)
        differing += popcount(a == NULL ? w[i] : a[i] ^ w[i]);
    /* A pixel of set bits differs where one of clear bits does not. */
    return a == NULL && pad_value > 0 ? 2 * differing - length : length - 2 * differing;
}

static void binary_conv2d(const geometry *g, const uint32_t *bits, const uint32_t *weight, const float *scale,
                          float *out)
{
    int32_t length = g->channels / g->groups, words = (length + 31) / 32, o, y, x, ky, kx;
    for (o = 0; o < g->filters; o++) {
        const uint32_t *filter = weight + o * g->kernel_y * g->kernel_x * words;
        const uint32_t *group = bits + o / (g->filters / g->groups) * words;
        for (y = 0; y < g->out_height; y++)
            for (x = 0; x < g->out_width; x++) {
                int32_t sum = 0;
                for (ky = 0; ky < g->kernel_y; ky++)
                    for (kx = 0; kx < g->kernel_x; kx++) {
                        int32_t row = y * g->stride_y - g->pad_y + ky * g->dilation_y;
                        int32_t column = x * g->stride_x - g->pad_x + kx * g->dilation_x;
                        int inside = row >= 0 && row < g->height && column >= 0 && column < g->width;
                        const uint32_t *a = inside ? group + (row * g->width + column) * g->groups * words : NULL;
                        sum += tap(a, filter + (ky * g->kernel_x + kx) * words, length, words, g->pad_value);
                    }
                *out++ = scale == NULL ? (float)sum : (float)sum * scale[o];
            }
    }
}""",
    "binary_linear": """\
static void binary_linear(const uint32_t *bits, const uint32_t *weight, const float *scale, float *out,
                          int32_t features, int32_t filters)
{
    int32_t words = (features + 31) / 32, o, i;
    for (o = 0; o < filters; o++) {
        int32_t sum = features;
        for (i = 0; i < words; i++)
            sum -= 2 * popcount(bits[i] ^ weight[o * words + i]);
        out[o] = scale == NULL ? (float)sum : (float)sum * scale[o];
    }
}""",
    "conv2d": """\
static void conv2d(const geometry *g, const float *in, const float *weight, const float *bias, float *out)
{
    int32_t depth = g->channels / g->groups, o, y, x, c, ky, kx;
    for (o = 0; o < g->filters; o++) {
        const float *group = in + o / (g->filters / g->groups) * depth * g->height * g->width;
        for (y = 0; y < g->out_height; y++)
            for (x = 0; x < g->out_width; x++) {
                const float *w = weight + o * depth * g->kernel_y * g->kernel_x;
                float sum = 0.0f;
                for (c = 0; c < depth; c++)
                    for (ky = 0; ky < g->kernel_y; ky++)
                        for (kx = 0; kx < g->kernel_x; kx++, w++) {
                            int32_t row = y * g->stride_y - g->pad_y + ky * g->dilation_y;
                            int32_t column = x * g->stride_x - g->pad_x + kx * g->dilation_x;
                            int inside = row >= 0 && row < g->height && column >= 0 && column < g->width;
                            sum += *w * (inside ? group[(c * g->height + row) * g->width + column]
                                                : (float)g->pad_value);
                        }
                *out++ = bias == NULL ? sum : sum + bias[o];
            }
    }
}""",
    "linear": """\
static void linear(const float *in, const float *weight, const float *bias, float *out, int32_t features,
                   int32_t filters)
{
    int32_t o, k;
    for (o = 0; o < filters; o++) {
        float sum = 0.0f;
        for (k = 0; k < features; k++)
            sum += in[k] * weight[o * features + k];
        out[o] = bias == NULL ? sum : sum + bias[o];
    }
}""",
    "batch_norm": """\
static void batch_norm(const float *in, const float *scale, const float *shift, float *out, int32_t channels,
                       int32_t pixels)
{
    int32_t c, p;
    for (c = 0; c < channels; c++)
        for (p = 0; p < pixels; p++)
            out[c * pixels + p] = in[c * pixels + p] * scale[c] + shift[c];
}""",
    "prelu": """\
/* step is 1 for a slope per channel, 0 for one slope. */
static void prelu(const float *in, const float *slope, int32_t step, float *out, int32_t channels, int32_t pixels)
{
    int32_t c, p;
    for (c = 0; c < channels; c++)
        for (p = 0; p < pixels; p++) {
            float v = in[c * pixels + p];
            out[c * pixels + p] = v >= 0.0f ? v : slope[c * step] * v;
        }
}""",
    "relu": """\
static void relu(const float *in, float *out, int32_t count)
{
    int32_t i;
    for (i = 0; i < count; i++)
        out[i] = in[i] > 0.0f ? in[i] : 0.0f;
}""",
    "hardtanh": """\
static void hardtanh(const float *in, float least, float most, float *out, int32_t count)
{
    int32_t i;
    for (i = 0; i < count; i++)
        out[i] = in[i] < least ? least : in[i] > most ? most : in[i];
}""",
    "add": """\
static void add(const float *a, const float *b, float *out, int32_t count)
{
    int32_t i;
    for (i = 0; i < count; i++)
        out[i] = a[i] + b[i];
}""",
    "max_pool2d": """\
static void max_pool2d(const geometry *g, const float *in, float *out)
{
    int32_t c, y, x, ky, kx;
    for (c = 0; c < g->channels; c++, in += g->height * g->width)
        for (y = 0; y < g->out_height; y++)
            for (x = 0; x < g->out_width; x++) {
                float largest = -INFINITE;
                for (ky = 0; ky < g->kernel_y; ky++)
                    for (kx = 0; kx < g->kernel_x; kx++) {
                        int32_t row = y * g->stride_y - g->pad_y + ky * g->dilation_y;
                        int32_t column = x * g->stride_x - g->pad_x + kx * g->dilation_x;
                        int inside = row >= 0 && row < g->height && column >= 0 && column < g->width;
                        if (inside && in[row * g->width + column] > largest)
                            largest = in[row * g->width + column];
                    }
                *out++ = largest;
            }
}""",
    "avg_pool2d": """\
/* The divisor counts pixels of the image and, with count_padding, of the padding, but never beyond. */
static void avg_pool2d(const geometry *g, const float *in, float *out)
{
    int32_t c, y, x, ky, kx;
    for (c = 0; c < g->channels; c++, in += g->height * g->width)
        for (y = 0; y < g->out_height; y++)
            for (x = 0; x < g->out_width; x++) {
                float sum = 0.0f;
                int32_t count = 0;
                for (ky = 0; ky < g->kernel_y; ky++)
                    for (kx = 0; kx < g->kernel_x; kx++) {
                        int32_t row = y * g->stride_y - g->pad_y + ky, column = x * g->stride_x - g->pad_x + kx;
                        if (row >= 0 && row < g->height && column >= 0 && column < g->width) {
                            sum += in[row * g->width + column];
                            count++;
                        } else if (g->count_padding && row < g->height + g->pad_y && column < g->width + g->pad_x)
                            count++;
                    }
                *out++ = count == 0 ? 0.0f : sum / (float)count;
            }
}""",
    "global_avg_pool": """\
static void global_avg_pool(const float *in, float *out, int32_t channels, int32_t pixels)
{
    int32_t c, p;
    for (c = 0; c < channels; c++) {
        float sum = 0.0f;
        for (p = 0; p < pixels; p++)
            sum += *in++;
        out[c] = sum / (float)pixels;
    }
}""",
    "channel_shuffle": """\
static void channel_shuffle(const float *in, float *out, int32_t channels, int32_t pixels, int32_t groups)
{
    int32_t length = channels / groups, c;
    for (c = 0; c < channels; c++)
        memcpy(out + (c % length * groups + c / length) * pixels, in + c * pixels, sizeof(float) * (size_t)pixels);
}""",
}
