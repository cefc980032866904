"""What one run of the compiled convolution is told: sizes, strides and addresses, as one record of int64."""

import numpy as np

_FIELDS = (
    # The input: bits [N, H, W, groups, words], or real [N, H, W, C] with its thresholds. A pixel's bytes from the next.
    "images", "height", "width", "channels", "groups", "group_channels", "words",
    "x", "x_pixel", "x_is_real", "thresholds", "signs", "comparisons", "threshold_bytes",
    # The window: output size, first input row and column, and the input rows and columns that a task reads.
    "out_height", "out_width", "stride_y", "stride_x", "top", "left", "span_y", "in_width", "pad_words",
    # Each task makes this many output rows; each thread has its own scratch memory: operands, counts, two rows.
    "rows", "scratch", "scratch_bytes", "counts_at", "row_at", "flat_at",
    # Operands as the inner loop reads them: bytes of a pixel and of a plane (one group); a tile's pixels and segments.
    "pixel_bytes", "group_bytes", "pixels", "segments", "segment_count", "weights", "weight_group_bytes", "tables",
    "blocks", "lanes",
    # base - 2 counts are the sums; base depends on which taps lie outside the image: a class of rows and of columns.
    "row_class", "column_class", "column_classes", "base", "base_bytes", "source", "filters",
    # The output: int32 sums, or real values, or bits, or the last two.
    "wants_sums", "parameters", "parameter_bytes", "added", "added_count", "out", "out_pixel",
    "bits", "bits_groups", "bits_group_channels", "bits_words", "bits_thresholds", "bits_signs", "bits_comparisons",
    "bits_threshold_bytes",
)  # fmt: skip

JOB = np.dtype([(name, np.int64) for name in _FIELDS])
