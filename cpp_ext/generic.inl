// Every primitive as a plain loop. Included by each simd_*.cpp inside its own namespace, after its target pragma, so
// that the compiler vectorises these loops for that instruction set. No standard library here: a template instantiated
// under a target pragma could be the copy that the linker keeps for all processors.

typedef float f32x8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef double f64x8 __attribute__((vector_size(64), aligned(8), may_alias));

#include "align_pixel.inl"

[[maybe_unused]] void combine_rows(const uint8_t* const* rows, const int16_t* weights, int taps, int16_t* out, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        int32_t sum = 1 << (kWeightBits - kRowBits - 1);
        for (int t = 0; t < taps; ++t) sum += rows[t][i] * weights[t];
        out[i] = static_cast<int16_t>(sum >> (kWeightBits - kRowBits));
    }
}

void combine_columns_from(int x, const int16_t* row, int channels, const Columns& columns, const Affine& affine,
                          float* const planes[3]) {
    const int padded = (columns.count + 7) & ~7;
    for (; x < columns.count; ++x) {
        int32_t sums[3] = {0, 0, 0};
        const int16_t* from = row + columns.offsets[x];
        for (int p = 0; p < columns.pairs; ++p, from += 2 * channels) {
            const uint32_t pair = columns.weights[static_cast<size_t>(p) * padded + x];
            const int32_t first = pair & 0xffff, second = pair >> 16;
            for (int c = 0; c < 3; ++c) sums[c] += from[c] * first + from[channels + c] * second;
        }
        for (int c = 0; c < 3; ++c)
            planes[c][x] = static_cast<float>(sums[c]) * affine.factor[c] + affine.summand[c];
    }
}

[[maybe_unused]] void combine_columns(const int16_t* row, int channels, const Columns& columns, const Affine& affine,
                     float* const planes[3]) {
    combine_columns_from(0, row, channels, columns, affine, planes);
}

[[maybe_unused]] void align_row(const Source& source, const AlignRow& row, const Affine& affine, float* const planes[3]) {
    for (int i = 0; i < row.count; ++i) align_pixel(source, row, affine, planes, i);
}

// The rounding doubling high half of a product, as pmulhrsw and sqrdmulh have it.
inline int32_t high_half(int32_t a, int32_t b) { return (a * b + (1 << 14)) >> 15; }

inline uint8_t byte_of(int32_t value) {  // of a number with 6 bits of fraction
    value = (value + 32) >> 6;
    return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

[[maybe_unused]] void camera_row(const uint8_t* __restrict y, const uint8_t* __restrict u, const uint8_t* __restrict v,
                                 const CameraColour& colour, size_t width, uint8_t* __restrict bgrx) {
    for (size_t x = 0; x < width; ++x) {
        const int32_t dark = y[x] - colour.black, luma = high_half((dark > 0 ? dark : 0) * 128, colour.luma);
        const int32_t cu = (u[x / 2] - 128) * 256, cv = (v[x / 2] - 128) * 256;
        bgrx[4 * x] = byte_of(luma + high_half(cu, colour.u_to_blue));
        bgrx[4 * x + 1] = byte_of(luma + (high_half(cu, colour.u_to_green) + high_half(cv, colour.v_to_green)));
        bgrx[4 * x + 2] = byte_of(luma + high_half(cv, colour.v_to_red));
        bgrx[4 * x + 3] = 0;
    }
}

void grey_to_bgrx(const uint8_t* __restrict grey, size_t width, uint8_t* __restrict bgrx) {
    typedef uint32_t pixel __attribute__((may_alias));  // rows of four bytes a pixel begin at a multiple of four
    pixel* __restrict out = reinterpret_cast<pixel*>(bgrx);
    for (size_t x = 0; x < width; ++x) out[x] = grey[x] * 0x010101u;
}

void split_pairs(const uint8_t* __restrict pairs, size_t count, uint8_t* __restrict first, uint8_t* __restrict second) {
    for (size_t i = 0; i < count; ++i) {
        first[i] = pairs[2 * i];
        second[i] = pairs[2 * i + 1];
    }
}

void scale_row(float* row, float factor, float summand, size_t count) {
    for (size_t i = 0; i < count; ++i) row[i] = row[i] * factor + summand;
}

void interleave(const float* const planes[3], float* __restrict out, size_t count) {
    const float* __restrict p0 = planes[0];
    const float* __restrict p1 = planes[1];
    const float* __restrict p2 = planes[2];
    for (size_t i = 0; i < count; ++i) {
        out[3 * i] = p0[i];
        out[3 * i + 1] = p1[i];
        out[3 * i + 2] = p2[i];
    }
}

// Rounds half to even, as the hardware conversions do; values here are never NaN.
inline uint16_t half_from_float(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    const uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // rounds to 65536 or more
    if (bits < 0x38800000) {  // below 2**-14: a subnormal half, in steps of 2**-24
        float magnitude;
        __builtin_memcpy(&magnitude, &bits, 4);
        return static_cast<uint16_t>(sign | static_cast<uint32_t>(round_even(magnitude * 16777216.0f)));
    }
    const uint32_t odd = bits >> 13 & 1;
    return static_cast<uint16_t>(sign | ((bits - 0x38000000 + 0xfff + odd) >> 13));
}

void to_float16(const float* in, uint16_t* out, size_t count) {
    for (size_t i = 0; i < count; ++i) out[i] = half_from_float(in[i]);
}

void to_int8(const float* in, int8_t* out, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        const float value = in[i] < -128.0f ? -128.0f : in[i] > 127.0f ? 127.0f : in[i];
        out[i] = static_cast<int8_t>(static_cast<int32_t>(round_even(value)));
    }
}

inline int32_t dot_int8_tail(const int8_t* a, const int8_t* b, size_t from, size_t count) {
    int32_t sum = 0;
    for (size_t i = from; i < count; ++i) sum += static_cast<int32_t>(a[i]) * b[i];
    return sum;
}

[[maybe_unused]] void dot_int8(const int8_t* templates, size_t rows, size_t columns, const int8_t* probe, int32_t* dots) {
    for (size_t r = 0; r < rows; ++r) dots[r] = dot_int8_tail(templates + r * columns, probe, 0, columns);
}

// Sixteen partial sums, column j into sum j mod 16, no fused multiply-add; then halves are added together.
void dot_float32(const float* templates, size_t rows, size_t columns, const float* probe, float* dots) {
    for (size_t r = 0; r < rows; ++r) {
        const float* row = templates + r * columns;
        f32x8 low = {}, high = {};
        size_t i = 0;
        for (; i + 16 <= columns; i += 16) {
            low += *reinterpret_cast<const f32x8*>(row + i) * *reinterpret_cast<const f32x8*>(probe + i);
            high += *reinterpret_cast<const f32x8*>(row + i + 8) * *reinterpret_cast<const f32x8*>(probe + i + 8);
        }
        float sums[16];
        *reinterpret_cast<f32x8*>(sums) = low;
        *reinterpret_cast<f32x8*>(sums + 8) = high;
        for (int j = 0; i < columns; ++i, ++j) sums[j] += row[i] * probe[i];
        for (int width = 8; width > 0; width /= 2)
            for (int j = 0; j < width; ++j) sums[j] += sums[j + width];
        dots[r] = sums[0];
    }
}

bool any_above_int32(const int32_t* values, size_t count, int32_t limit) {
    int32_t above = 0;
    for (size_t i = 0; i < count; ++i) above |= values[i] > limit;
    return above != 0;
}

bool any_above_float32(const float* values, size_t count, float limit) {
    int32_t above = 0;
    for (size_t i = 0; i < count; ++i) above |= values[i] > limit;
    return above != 0;
}

// Eight partial sums in double, column j into sum j mod 8; then halves are added together.
void normalize_row(const float* in, size_t count, float* out) {
    double sums[8] = {};
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int j = 0; j < 8; ++j) sums[j] += static_cast<double>(in[i + j]) * in[i + j];
    for (int j = 0; i < count; ++i, ++j) sums[j] += static_cast<double>(in[i]) * in[i];
    for (int width = 4; width > 0; width /= 2)
        for (int j = 0; j < width; ++j) sums[j] += sums[j + width];
    const double norm = __builtin_sqrt(sums[0]);
    if (!(norm > 0 && norm <= 1.7976931348623157e308)) {
        for (size_t j = 0; j < count; ++j) out[j] = 0.0f;
        return;
    }
    const double factor = 1 / norm;
    for (size_t j = 0; j < count; ++j) out[j] = static_cast<float>(in[j] * factor);
}

void quantize(const float* in, size_t count, float scale, int8_t* out) {
    for (size_t i = 0; i < count; ++i) {
        float value = in[i] / scale;
        value = value == value ? value : 0.0f;
        value = value < -127.0f ? -127.0f : value > 127.0f ? 127.0f : value;
        out[i] = static_cast<int8_t>(static_cast<int32_t>(round_even(value)));
    }
}

void suppress(const float* const boxes[5], size_t from, size_t count, const float box[5], float limit,
              int32_t* __restrict alive) {
    const float* __restrict x0 = boxes[0];
    const float* __restrict y0 = boxes[1];
    const float* __restrict x1 = boxes[2];
    const float* __restrict y1 = boxes[3];
    const float* __restrict areas = boxes[4];
    const float bx0 = box[0], by0 = box[1], bx1 = box[2], by1 = box[3], area = box[4];
    for (size_t j = from; j < count; ++j) {
        const float right = x1[j] < bx1 ? x1[j] : bx1, left = x0[j] > bx0 ? x0[j] : bx0;
        const float bottom = y1[j] < by1 ? y1[j] : by1, top = y0[j] > by0 ? y0[j] : by0;
        const float width = right - left, height = bottom - top;
        const float common = (width > 0.0f ? width : 0.0f) * (height > 0.0f ? height : 0.0f);
        alive[j] &= common > limit * ((area + areas[j]) - common) ? 0 : 1;
    }
}

// OpenCV's 15-bit coefficients of BT.601.
void grey_row(const uint8_t* bgr, size_t count, int16_t* out) {
    for (size_t i = 0; i < count; ++i)
        out[i] = static_cast<int16_t>((bgr[3 * i] * 3735 + bgr[3 * i + 1] * 19235 + bgr[3 * i + 2] * 9798 + 16384) >> 15);
}

void sums(const int16_t* values, size_t count, int64_t* sum, int64_t* squares) {
    // |value| <= 1020: 1024 squares stay below 2**31.
    for (size_t from = 0; from < count; from += 1024) {
        const size_t end = from + 1024 < count ? from + 1024 : count;
        int32_t part = 0, part_squares = 0;
        for (size_t i = from; i < end; ++i) {
            part += values[i];
            part_squares += values[i] * values[i];
        }
        *sum += part;
        *squares += part_squares;
    }
}

// Rows have one more sample on either side.
void laplacian_row(const int16_t* above, const int16_t* row, const int16_t* below, size_t count, int16_t* out) {
    const int16_t* left = row - 1;
    for (size_t i = 0; i < count; ++i)
        out[i] = static_cast<int16_t>(above[i] + below[i] + left[i] + left[i + 2] - 4 * row[i]);
}

uint64_t read_once(const uint8_t* data, size_t bytes) {
    typedef uint64_t words __attribute__((vector_size(32), aligned(1), may_alias));
    words a = {}, b = {}, c = {}, d = {};
    size_t i = 0;
    for (; i + 128 <= bytes; i += 128) {
        a ^= *reinterpret_cast<const words*>(data + i);
        b ^= *reinterpret_cast<const words*>(data + i + 32);
        c ^= *reinterpret_cast<const words*>(data + i + 64);
        d ^= *reinterpret_cast<const words*>(data + i + 96);
    }
    a ^= b ^ c ^ d;
    uint64_t mixed = a[0] ^ a[1] ^ a[2] ^ a[3];
    for (; i < bytes; ++i) mixed ^= static_cast<uint64_t>(data[i]) << (i % 8 * 8);
    return mixed;
}
