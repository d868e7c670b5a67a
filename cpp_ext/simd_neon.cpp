// Advanced SIMD, which every aarch64 processor has, and the dot-product instructions of Armv8.2 (Jetson Xavier and later).
#include "primitives.hpp"
#include "tables.hpp"

#if defined(__aarch64__)
#include <arm_neon.h>

namespace edgeface {
namespace {
#include "generic.inl"

void combine_rows_neon(const uint8_t* const* rows, const int16_t* weights, int taps, int16_t* out, size_t count) {
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        int32x4_t sums[4];
        for (int32x4_t& sum : sums) sum = vdupq_n_s32(1 << (kWeightBits - kRowBits - 1));
        for (int t = 0; t < taps; ++t) {
            const uint8x16_t bytes = vld1q_u8(rows[t] + i);
            const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
            const int16x8_t high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(bytes)));
            sums[0] = vmlal_n_s16(sums[0], vget_low_s16(low), weights[t]);
            sums[1] = vmlal_n_s16(sums[1], vget_high_s16(low), weights[t]);
            sums[2] = vmlal_n_s16(sums[2], vget_low_s16(high), weights[t]);
            sums[3] = vmlal_n_s16(sums[3], vget_high_s16(high), weights[t]);
        }
        vst1q_s16(out + i, vcombine_s16(vshrn_n_s32(sums[0], kWeightBits - kRowBits),
                                        vshrn_n_s32(sums[1], kWeightBits - kRowBits)));
        vst1q_s16(out + i + 8, vcombine_s16(vshrn_n_s32(sums[2], kWeightBits - kRowBits),
                                            vshrn_n_s32(sums[3], kWeightBits - kRowBits)));
    }
    for (; i < count; ++i) {
        int32_t sum = 1 << (kWeightBits - kRowBits - 1);
        for (int t = 0; t < taps; ++t) sum += rows[t][i] * weights[t];
        out[i] = static_cast<int16_t>(sum >> (kWeightBits - kRowBits));
    }
}

// pixels: the channels of four pixels, four numbers each.
inline void store_planes(const int32_t pixels[16], const Affine& affine, float* const planes[3], int x) {
    const int32x4x4_t channels = vld4q_s32(pixels);
    for (int c = 0; c < 3; ++c) {
        const float32x4_t scaled = vmulq_n_f32(vcvtq_f32_s32(channels.val[c]), affine.factor[c]);
        vst1q_f32(planes[c] + x, vaddq_f32(scaled, vdupq_n_f32(affine.summand[c])));
    }
}

void combine_columns_neon(const int16_t* row, int channels, const Columns& columns, const Affine& affine,
                          float* const planes[3]) {
    const int padded = (columns.count + 7) & ~7;
    int x = 0;
    for (; x + 4 <= columns.count; x += 4) {
        int32_t pixels[16];
        for (int k = 0; k < 4; ++k) {
            const int16_t* from = row + columns.offsets[x + k];
            int32x4_t sum = vdupq_n_s32(0);
            for (int p = 0; p < columns.pairs; ++p, from += 2 * channels) {
                const uint32_t pair = columns.weights[static_cast<size_t>(p) * padded + x + k];
                sum = vmlal_n_s16(sum, vld1_s16(from), static_cast<int16_t>(pair & 0xffff));
                sum = vmlal_n_s16(sum, vld1_s16(from + channels), static_cast<int16_t>(pair >> 16));
            }
            vst1q_s32(pixels + 4 * k, sum);
        }
        store_planes(pixels, affine, planes, x);
    }
    combine_columns_from(x, row, channels, columns, affine, planes);
}

inline int32x4_t positions(const float* along, float base) {
    const float32x4_t at = vaddq_f32(vld1q_f32(along), vdupq_n_f32(base));
    return vcvtnq_s32_f32(vmaxq_f32(vminq_f32(at, vdupq_n_f32(4194304.0f)), vdupq_n_f32(-4194304.0f)));
}

// Two neighbouring pixels of one row, weighted: the low half of the result plus its high half, moved by the channels.
inline int32x4_t sample(const uint8_t* at, int channels, int32_t first, int32_t second, int32x4_t sum) {
    const int16x8_t both = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(at)));
    const int16x4_t right = channels == 3 ? vget_low_s16(vextq_s16(both, both, 3)) : vget_high_s16(both);
    sum = vmlal_n_s16(sum, vget_low_s16(both), static_cast<int16_t>(first));
    return vmlal_n_s16(sum, right, static_cast<int16_t>(second));
}

void align_row_neon(const Source& source, const AlignRow& row, const Affine& affine, float* const planes[3]) {
    constexpr int one = 1 << kPositionBits;
    // Eight bytes are read at each pixel: with three channels the last two pixels of a row are left to align_pixel.
    const int last_x = source.width - (source.channels == 3 ? 3 : 2), last_y = source.height - 2;
    const bool roomy = last_x >= 0 && last_y >= 0;
    const uint32x4_t limit_x = vdupq_n_u32(static_cast<uint32_t>(last_x)), limit_y = vdupq_n_u32(static_cast<uint32_t>(last_y));
    int i = 0;
    for (; i + 4 <= row.count; i += 4) {
        const int32x4_t px = positions(row.along_x + i, row.base_x), py = positions(row.along_y + i, row.base_y);
        const int32x4_t x = vshrq_n_s32(px, kPositionBits), y = vshrq_n_s32(py, kPositionBits);
        const uint32x4_t inside = vandq_u32(vcleq_u32(vreinterpretq_u32_s32(x), limit_x),
                                            vcleq_u32(vreinterpretq_u32_s32(y), limit_y));
        if (!roomy || vminvq_u32(inside) == 0) {
            for (int j = i; j < i + 4; ++j) align_pixel(source, row, affine, planes, j);
            continue;
        }
        int32_t xs[4], ys[4], fx[4], fy[4], pixels[16];
        vst1q_s32(xs, x);
        vst1q_s32(ys, y);
        vst1q_s32(fx, vandq_s32(px, vdupq_n_s32(one - 1)));
        vst1q_s32(fy, vandq_s32(py, vdupq_n_s32(one - 1)));
        for (int k = 0; k < 4; ++k) {
            const uint8_t* top = source.data + (ys[k] * source.stride + static_cast<ptrdiff_t>(xs[k]) * source.channels - source.origin);
            int32x4_t sum = sample(top, source.channels, (one - fx[k]) * (one - fy[k]), fx[k] * (one - fy[k]), vdupq_n_s32(0));
            sum = sample(top + source.stride, source.channels, (one - fx[k]) * fy[k], fx[k] * fy[k], sum);
            vst1q_s32(pixels + 4 * k, sum);
        }
        store_planes(pixels, affine, planes, i);
    }
    for (; i < row.count; ++i) align_pixel(source, row, affine, planes, i);
}

inline int16x8_t chroma(const uint8_t* samples) {  // (sample - 128) * 256
    return vreinterpretq_s16_u16(veorq_u16(vshll_n_u8(vld1_u8(samples), 8), vdupq_n_u16(0x8000)));
}

inline uint8x16_t coloured(int16x8_t low, int16x8_t high, int16x8_t part) {
    const int16x8_t first = vqaddq_s16(low, vzip1q_s16(part, part)), second = vqaddq_s16(high, vzip2q_s16(part, part));
    return vcombine_u8(vqmovun_s16(vshrq_n_s16(first, 6)), vqmovun_s16(vshrq_n_s16(second, 6)));
}

void camera_row_neon(const uint8_t* y, const uint8_t* u, const uint8_t* v, const CameraColour& colour, size_t width,
                     uint8_t* bgrx) {
    const int16x8_t half = vdupq_n_s16(32);
    size_t x = 0;
    for (; x + 16 <= width; x += 16) {
        const uint8x16_t bright = vqsubq_u8(vld1q_u8(y + x), vdupq_n_u8(colour.black));
        const int16x8_t near = vreinterpretq_s16_u16(vshll_n_u8(vget_low_u8(bright), 7));
        const int16x8_t far = vreinterpretq_s16_u16(vshll_n_u8(vget_high_u8(bright), 7));
        const int16x8_t low = vaddq_s16(vqrdmulhq_n_s16(near, colour.luma), half);
        const int16x8_t high = vaddq_s16(vqrdmulhq_n_s16(far, colour.luma), half);
        const int16x8_t cu = chroma(u + x / 2), cv = chroma(v + x / 2);
        const int16x8_t green = vaddq_s16(vqrdmulhq_n_s16(cu, colour.u_to_green), vqrdmulhq_n_s16(cv, colour.v_to_green));
        const uint8x16x4_t pixels = {{coloured(low, high, vqrdmulhq_n_s16(cu, colour.u_to_blue)), coloured(low, high, green),
                                      coloured(low, high, vqrdmulhq_n_s16(cv, colour.v_to_red)), vdupq_n_u8(0)}};
        vst4q_u8(bgrx + 4 * x, pixels);
    }
    camera_row(y + x, u + x / 2, v + x / 2, colour, width - x, bgrx + 4 * x);
}

void to_float16_neon(const float* in, uint16_t* out, size_t count) {
    size_t i = 0;
    for (; i + 4 <= count; i += 4) vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(in + i))));
    to_float16(in + i, out + i, count - i);
}

void dot_int8_neon(const int8_t* templates, size_t rows, size_t columns, const int8_t* probe, int32_t* dots) {
    const size_t whole = columns & ~static_cast<size_t>(15);
    for (size_t r = 0; r < rows; ++r) {
        const int8_t* row = templates + r * columns;
        int32x4_t low = vdupq_n_s32(0), high = vdupq_n_s32(0);
        for (size_t i = 0; i < whole; i += 16) {
            const int8x16_t t = vld1q_s8(row + i), p = vld1q_s8(probe + i);
            low = vpadalq_s16(low, vmull_s8(vget_low_s8(t), vget_low_s8(p)));
            high = vpadalq_s16(high, vmull_high_s8(t, p));
        }
        dots[r] = vaddvq_s32(vaddq_s32(low, high)) + dot_int8_tail(row, probe, whole, columns);
    }
}

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
void dot_int8_dotprod(const int8_t* templates, size_t rows, size_t columns, const int8_t* probe, int32_t* dots) {
    const size_t whole = columns & ~static_cast<size_t>(15);
    size_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        const int8_t* block = templates + r * columns;
        int32x4_t sums[4];
        for (int32x4_t& sum : sums) sum = vdupq_n_s32(0);
        for (size_t i = 0; i < whole; i += 16) {
            const int8x16_t p = vld1q_s8(probe + i);
            for (int j = 0; j < 4; ++j) sums[j] = vdotq_s32(sums[j], vld1q_s8(block + j * columns + i), p);
        }
        vst1q_s32(dots + r, vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3])));
        if (whole < columns)
            for (int j = 0; j < 4; ++j) dots[r + j] += dot_int8_tail(block + j * columns, probe, whole, columns);
    }
    for (; r < rows; ++r) dots[r] = dot_int8_tail(templates + r * columns, probe, 0, columns);
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
}  // namespace

const Primitives neon_primitives = EDGEFACE_TABLE("neon", combine_columns_neon, combine_rows_neon, align_row_neon,
                                                  camera_row_neon, to_float16_neon, dot_int8_neon);
const Primitives dotprod_primitives = EDGEFACE_TABLE("dotprod", combine_columns_neon, combine_rows_neon, align_row_neon,
                                                     camera_row_neon, to_float16_neon, dot_int8_dotprod);
}  // namespace edgeface
#endif
