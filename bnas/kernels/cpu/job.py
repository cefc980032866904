"""What one run of the compiled convolution is told: sizes, strides and addresses, as one record of int64."""

import numpy as np

_FIELDS = (
    # The input: bits [N, H, W, groups, words], or real [N, H, W, C] with its thresholds. A pixel's bytes from the next.
    "images", "height", "width", "channels", "groups", "group_channels", "words",
    "x", "x_pixel", "x_is_real", "thresholds", "signs", "comparisons", "threshold_bytes",
    # The window: output size, first input row and column, and the input rows and columns that a task reads.
    "out_height", "out_width", "stride_y", "stride_x", "top", "left", "span_y", "in_width", "pad_words",
    # Each task makes this many output rows; each thread has its own scratch memory: operands, counts, two rows.
    "rows", "scratch", "scratch_bytes", "acts_at", "counts_at", "row_at", "flat_at", "lanes",
    # What all inner loops read: bytes of the operands of a group, weights and their bytes of a group.
    "group_bytes", "weights", "weight_group_bytes",
    # Words of a pixel that lie together: bytes of a pixel, and the lane in which a channel is counted.
    "pixel_bytes", "source",
    # `popcount`: a tile's pixels and segments; blocks of 16 filters of a group.
    "pixels", "segments", "segment_count", "blocks",
    # Look-ups: steps, and where the operands of each lie; counts before they are int32.
    "steps", "step_at", "sums_at", "is_pointwise", "words_at",
    # `tables`: lines and pixels of them that are seen; words of a line and where 4 channels lie in them, their bits, planes;
    # pairs of filters of a group; where counts of a group begin, and those of a channel.
    "line_step", "phases", "pixel_words", "phase_bytes", "word_bytes", "bits_at", "bits_bytes", "nibbles", "nibble_at",
    "kernel_width", "column_at", "class_bytes", "plane_bytes", "pairs", "group_sums_bytes", "order",
    # `filter_tables`: vectors of 32 filters of a group; bytes of the places of tables of a group, a line, a pixel.
    "vectors", "places_group_bytes", "places_line_bytes", "places_bytes",
    # base - 2 counts are the sums; base depends on which taps lie outside the image: where the row of each output begins.
    "has_border", "base_of", "base", "filters",
    # The output: int32 sums, or real values, or bits, or the last two.
    "wants_sums", "parameters", "parameter_bytes", "follows", "added", "added_count", "out", "out_pixel",
    "bits", "bits_groups", "bits_group_channels", "bits_words", "bits_thresholds", "bits_signs", "bits_comparisons",
    "bits_threshold_bytes",
)  # fmt: skip

JOB = np.dtype([(name, np.int64) for name in _FIELDS])
