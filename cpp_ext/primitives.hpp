// The inner loops, one table of them for each instruction set. A kernel is a plain C++ driver that calls these per row.
//
// generic.inl writes each of them down as a plain loop. Every simd_*.cpp file compiles that file for its instruction set
// and replaces the loops that a compiler does not see through. All tables compute the same bits, dot_float32 in the
// order of summation that generic.inl states.
#pragma once

#include <cstddef>
#include <cstdint>

#include "camera.hpp"

namespace edgeface {

constexpr int kWeightBits = 14;  // 1.0 is 1 << 14, see edgeface/_kernels_py_pixels.py
constexpr int kRowBits = 7;
constexpr int kPositionBits = 7;

// Where each target pixel of a row takes its source pixels from.
struct Columns {
    int count;                 // target pixels
    int pairs;                 // pairs of taps each
    const int32_t* offsets;    // (count rounded up to 8): first tap, in elements of the row
    const uint32_t* weights;   // (pairs, count rounded up to 8): two int16 weights, the first in the low half
};

// A picture with 3 or 4 interleaved uint8 channels that align samples from, or the part of it that it needs.
struct Source {
    const uint8_t* data;
    ptrdiff_t origin;  // offset of data in the whole picture: y * stride + x * channels of the part's first pixel
    ptrdiff_t stride;
    int height, width, channels;
};

// One row of an aligned crop: position = along_x[i] + base, in 1/128 pixel.
struct AlignRow {
    const float* along_x;  // (count): what column i adds to x
    const float* along_y;  // (count): what column i adds to y
    float base_x, base_y;
    int count;
};

struct Affine {
    float factor[3], summand[3];
};

struct Primitives {
    const char* name;
    // out[i] = (sum over t of weights[t] * rows[t][i], rounded) with 7 bits of fraction.
    void (*combine_rows)(const uint8_t* const* rows, const int16_t* weights, int taps, int16_t* out, size_t count);
    // planes[c][x] = (sum over taps of weight * row[pixel][c]) * factor[c] + summand[c]; the row has 3 or 4 channels.
    void (*combine_columns)(const int16_t* row, int channels, const Columns& columns, const Affine& affine,
                            float* const planes[3]);
    // planes[c][i] = bilinear sample of channel c, black outside, * factor[c] + summand[c].
    void (*align_row)(const Source& source, const AlignRow& row, const Affine& affine, float* const planes[3]);
    // One row of a camera's picture, U and V at half its width, as blue, green, red, 0.
    void (*camera_row)(const uint8_t* y, const uint8_t* u, const uint8_t* v, const CameraColour& colour, size_t width,
                       uint8_t* bgrx);
    void (*grey_to_bgrx)(const uint8_t* grey, size_t width, uint8_t* bgrx);
    // pairs[2 * i] to first[i], pairs[2 * i + 1] to second[i].
    void (*split_pairs)(const uint8_t* pairs, size_t count, uint8_t* first, uint8_t* second);
    void (*scale_row)(float* row, float factor, float summand, size_t count);  // in place
    void (*interleave)(const float* const planes[3], float* out, size_t count);
    void (*to_float16)(const float* in, uint16_t* out, size_t count);
    void (*to_int8)(const float* in, int8_t* out, size_t count);
    // dots[r] = templates row r . probe. The probe has room for 64 elements more, all zero.
    void (*dot_int8)(const int8_t* templates, size_t rows, size_t columns, const int8_t* probe, int32_t* dots);
    void (*dot_float32)(const float* templates, size_t rows, size_t columns, const float* probe, float* dots);
    bool (*any_above_int32)(const int32_t* values, size_t count, int32_t limit);
    bool (*any_above_float32)(const float* values, size_t count, float limit);
    void (*normalize_row)(const float* in, size_t count, float* out);
    void (*quantize)(const float* in, size_t count, float scale, int8_t* out);
    // alive[j] = 0 where box j overlaps the box (x0, y0, x1, y1, area) by more than the limit.
    void (*suppress)(const float* const boxes[5], size_t from, size_t count, const float box[5], float limit,
                     int32_t* alive);
    void (*grey_row)(const uint8_t* bgr, size_t count, int16_t* out);
    void (*sums)(const int16_t* values, size_t count, int64_t* sum, int64_t* squares);
    void (*laplacian_row)(const int16_t* above, const int16_t* row, const int16_t* below, size_t count, int16_t* out);
    uint64_t (*read_once)(const uint8_t* data, size_t bytes);
};

// The table in use: the best of this processor, or the one EDGEFACE_SIMD names.
const Primitives& primitives();
// Names of the tables this processor can run, plainest first, ended by null.
const char* const* available_primitives();
// Picks a table for the whole process; false when there is none of that name here. For tests and benchmarks.
bool use_primitives(const char* name);

}  // namespace edgeface
