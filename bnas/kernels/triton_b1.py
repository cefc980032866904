"""Binary convolution on 1-bit tensor cores, in Gluon: `mma.sync.m16n8k256 ... b1 ... and.popc`, native on sm_80 and sm_90.

Of xor and and, Hopper has only and (xor is emulated at half its speed), hence, for K products that count,

    sum of a w = K - 2 pop(a) - 2 pop(w) + 4 pop(a & w)

- pop(a & w) comes from the tensor cores, 16 pixels x 8 filters x 256 bits an instruction;
- pop(a) too: one more product a tile, with a filter that is all ones. It arrives where the sums are, with no shuffle;
- K - 2 pop(w) is a table of the layer, one row for each way in which a patch can hang over the border (`border`).

Taps outside of the image are read as clear bits and so add nothing to the first two, whatever they count as.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

# Words of a row that one step takes: two instructions of 8 words. Which words meet in which instruction does not matter, as
# long as it is the same for both sides, so that each lane takes 4 that lie together: one load of 16 bytes.
STEP_WORDS = gl.constexpr(16)

TWO_MMAS = gl.constexpr(
    """
    mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {$0, $1, $2, $3}, {$4, $8, $5, $9}, {$12, $13}, {$16, $17, $18, $19};
    mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {$0, $1, $2, $3}, {$6, $10, $7, $11}, {$14, $15}, {$0, $1, $2, $3};
    """  # noqa: E501
)
# Written before the last input is read: the outputs must not share a register with one.
REGISTERS = gl.constexpr("=&r,=&r,=&r,=&r," + ",".join(["r"] * 16))


@gluon.jit
def and_popcount(upper, lower, w, sums):
    """sums + pop(a & w) of 16-row tiles: `upper` holds rows 0 to 7, `lower` 8 to 15, w 8 filters, all 4 words a lane."""
    return gl.inline_asm_elementwise(TWO_MMAS, REGISTERS, [upper, lower, w, sums], dtype=gl.int32, is_pure=True, pack=4)


@gluon.jit
def words_of(split, MT: gl.constexpr, NT: gl.constexpr):
    """Add up bits, shifted to their places: [MT, NT, 32, 4] to words [MT, NT / 4, 8, 2] of rows lane / 4 + 8 (r / 2)."""
    apart = gl.reshape(split, [MT, NT // 4, 4, 8, 4, 2, 2])
    return gl.sum(gl.sum(gl.sum(apart, axis=6), axis=4), axis=2)


@gluon.jit
def patch_rows(
    bits, m, k, group, M, Ho, Wo, H, W,
    GROUPS: gl.constexpr, WORDS: gl.constexpr, TAPS: gl.constexpr, KW: gl.constexpr,
    STRIDE_Y: gl.constexpr, STRIDE_X: gl.constexpr, TOP: gl.constexpr, LEFT: gl.constexpr,
    DIL_Y: gl.constexpr, DIL_X: gl.constexpr,
):  # fmt: skip
    """Words k of the patches of pixels m; clear where the image ends. m and k broadcast against each other."""
    tap = k // WORDS
    y = (m // Wo) % Ho * STRIDE_Y - TOP + tap // KW * DIL_Y
    x = m % Wo * STRIDE_X - LEFT + tap % KW * DIL_X
    inside = (m < M) & (k < TAPS * WORDS) & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    place = ((m // (Ho * Wo) * H + y) * W + x) * (GROUPS * WORDS) + group * WORDS + k % WORDS
    return gl.load(bits + place, mask=inside, other=0)


@gluon.jit
def b1_kernel(
    bits, weight, border, border_row, out, scale, value, flip, M, Ho, Wo, H, W, group_filters,
    GROUPS: gl.constexpr, WORDS: gl.constexpr, TAPS: gl.constexpr, KW: gl.constexpr,
    STRIDE_Y: gl.constexpr, STRIDE_X: gl.constexpr, TOP: gl.constexpr, LEFT: gl.constexpr,
    DIL_Y: gl.constexpr, DIL_X: gl.constexpr, EPILOGUE: gl.constexpr,
    BM: gl.constexpr, BN: gl.constexpr, WARPS_M: gl.constexpr, WARPS_N: gl.constexpr,
):  # fmt: skip
    """Sums of BM pixels x BN filters; `border` [rows, filters] and `border_row` [Ho Wo] as `border_table` gives them.

    Tensors are [tiles of 16 pixels, tiles of 8 filters, lane, register], so that a thread has an instruction's fragments.
    """
    MT: gl.constexpr = BM // 16
    NT: gl.constexpr = BN // 8
    L: gl.constexpr = gl.BlockedLayout(
        [MT // WARPS_M, NT // WARPS_N, 1, 4], [1, 1, 32, 1], [WARPS_M, WARPS_N, 1, 1], [3, 2, 1, 0]
    )
    tiles: gl.constexpr = gl.SliceLayout(3, L)
    mt = gl.arange(0, MT, gl.SliceLayout(1, gl.SliceLayout(2, tiles)))[:, None][:, :, None][:, :, :, None]
    nt = gl.arange(0, NT, gl.SliceLayout(0, gl.SliceLayout(2, tiles)))[None, :][:, :, None][:, :, :, None]
    lane = gl.arange(0, 32, gl.SliceLayout(0, gl.SliceLayout(1, tiles)))[None, :][:, None, :][:, :, :, None]
    r = gl.arange(0, 4, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, L))))[None, :][:, None, :][:, :, None, :]
    group = gl.program_id(2)
    m0 = gl.program_id(0) * BM + mt * 16 + lane // 4
    o0 = gl.program_id(1) * BN + nt * 8 + lane // 4
    filters = weight + (group * group_filters + o0) * (TAPS * WORDS)
    ones = gl.full([MT, 1, 32, 4], -1, gl.int32, L)
    set_bits = gl.zeros([MT, 1, 32, 4], gl.int32, L)
    common = gl.zeros([MT, NT, 32, 4], gl.int32, L)
    for start in range(0, TAPS * WORDS, STEP_WORDS):
        k = start + lane % 4 * 4 + r
        upper = patch_rows(
            bits, m0, k, group, M, Ho, Wo, H, W,
            GROUPS, WORDS, TAPS, KW, STRIDE_Y, STRIDE_X, TOP, LEFT, DIL_Y, DIL_X,
        )  # fmt: skip
        lower = patch_rows(
            bits, m0 + 8, k, group, M, Ho, Wo, H, W,
            GROUPS, WORDS, TAPS, KW, STRIDE_Y, STRIDE_X, TOP, LEFT, DIL_Y, DIL_X,
        )  # fmt: skip
        w = gl.load(filters + k, mask=(o0 < group_filters) & (k < TAPS * WORDS), other=0)
        set_bits = and_popcount(upper, lower, ones, set_bits)
        common = and_popcount(upper, lower, w, common)
    # Register r of a lane holds the sum of row lane / 4 + 8 (r / 2) and column 2 (lane % 4) + r % 2 of its tile.
    m = m0 + r // 2 * 8
    o = gl.program_id(1) * BN + nt * 8 + lane % 4 * 2 + r % 2
    real = (m < M) & (o < group_filters)
    row = gl.load(border_row + m % (Ho * Wo))
    o = group * group_filters + o
    sums = gl.load(border + row * (GROUPS * group_filters) + o, mask=real, other=0) - 2 * set_bits + 4 * common
    if EPILOGUE == 0:
        gl.store(out + m * (GROUPS * group_filters) + o, sums, mask=real)
    else:
        scaled = sums.to(gl.float32) * gl.load(scale + o, mask=real, other=0.0)
        if EPILOGUE == 1:
            gl.store(out + m * (GROUPS * group_filters) + o, scaled, mask=real)
        else:
            t = gl.load(value + o, mask=real, other=0.0)
            flipped = gl.load(flip + o, mask=real, other=0) != 0
            positive = ((flipped & (scaled <= t)) | (~flipped & (scaled >= t))) & real
            split = positive.to(gl.int32) << (nt % 4 * 8 + lane % 4 * 2 + r % 2)
            packed = words_of(split, MT, NT)
            P: gl.constexpr = gl.BlockedLayout([1, 1, 1, 1], [1, 1, 16, 2], [WARPS_M, WARPS_N, 1, 1], [3, 2, 1, 0])
            packed = gl.convert_layout(packed, P)
            slices: gl.constexpr = gl.SliceLayout(3, P)
            mt = gl.arange(0, MT, gl.SliceLayout(1, gl.SliceLayout(2, slices)))[:, None][:, :, None][:, :, :, None]
            word = gl.arange(0, NT // 4, gl.SliceLayout(0, gl.SliceLayout(2, slices)))[None, :][:, :, None][
                :, :, :, None
            ]
            g = gl.arange(0, 8, gl.SliceLayout(0, gl.SliceLayout(1, slices)))[None, :][:, None, :][:, :, :, None]
            half = gl.arange(0, 2, gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(2, P))))[None, :][:, None, :]
            m = gl.program_id(0) * BM + mt * 16 + g + 8 * half[:, :, None, :]
            column = (group * group_filters + gl.program_id(1) * BN) // 32 + word
            words = (GROUPS * group_filters + 31) // 32
            gl.store(out + m * words + column, packed, mask=(m < M) & (column < words))
