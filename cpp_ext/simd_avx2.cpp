// AVX2 and F16C. Also the base of the two VNNI tables, which differ in the int8 dot product only.
#include "primitives.hpp"
#include "tables.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#endif

namespace edgeface {
namespace {
#include "generic.inl"

inline __m256i load256(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
inline __m128i load128(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }

template <int kPairs>  // 0: any number
void combine_rows_by(const uint8_t* const* rows, const int16_t* weights, int taps, int16_t* out, size_t count) {
    const int pairs = kPairs ? kPairs : (taps + 1) / 2;
    const __m256i half = _mm256_set1_epi32(1 << (kWeightBits - kRowBits - 1));
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        __m256i low = half, high = half;
        for (int p = 0; p < pairs; ++p) {
            const bool both = 2 * p + 1 < taps;
            const int32_t second = both ? weights[2 * p + 1] : 0;
            const __m256i weight = _mm256_set1_epi32(weights[2 * p] | second << 16);
            const __m256i a = _mm256_cvtepu8_epi16(load128(rows[2 * p] + i));
            const __m256i b = both ? _mm256_cvtepu8_epi16(load128(rows[2 * p + 1] + i)) : _mm256_setzero_si256();
            low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), weight));
            high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), weight));
        }
        low = _mm256_srai_epi32(low, kWeightBits - kRowBits);
        high = _mm256_srai_epi32(high, kWeightBits - kRowBits);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm256_packs_epi32(low, high));
    }
    for (; i < count; ++i) {
        int32_t sum = 1 << (kWeightBits - kRowBits - 1);
        for (int t = 0; t < taps; ++t) sum += rows[t][i] * weights[t];
        out[i] = static_cast<int16_t>(sum >> (kWeightBits - kRowBits));
    }
}

void combine_rows_avx2(const uint8_t* const* rows, const int16_t* weights, int taps, int16_t* out, size_t count) {
    if (taps == 2) return combine_rows_by<1>(rows, weights, taps, out, count);
    if (taps == 3 || taps == 4) return combine_rows_by<2>(rows, weights, taps, out, count);
    combine_rows_by<0>(rows, weights, taps, out, count);
}

// Factors and summands spread over registers, and where the planes begin.
struct Planes {
    __m256 factor[3], summand[3];
    float* plane[3];

    Planes(const Affine& affine, float* const planes[3]) {
        for (int c = 0; c < 3; ++c) {
            factor[c] = _mm256_set1_ps(affine.factor[c]);
            summand[c] = _mm256_set1_ps(affine.summand[c]);
            plane[c] = planes[c];
        }
    }

    // sums[k] holds the channels of pixel k in its low half and of pixel k + 4 in its high half.
    void store(const __m256i sums[4], int x) const {
        const __m256 p0 = _mm256_cvtepi32_ps(sums[0]), p1 = _mm256_cvtepi32_ps(sums[1]);
        const __m256 p2 = _mm256_cvtepi32_ps(sums[2]), p3 = _mm256_cvtepi32_ps(sums[3]);
        const __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(p0, p1));
        const __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(p2, p3));
        const __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(p0, p1));
        const __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(p2, p3));
        const __m256 channels[3] = {_mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23)),
                                    _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23)),
                                    _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23))};
        for (int c = 0; c < 3; ++c)
            _mm256_storeu_ps(plane[c] + x, _mm256_add_ps(_mm256_mul_ps(channels[c], factor[c]), summand[c]));
    }
};

template <int kChannels>
inline __m256i column_pair(const int16_t* row, int32_t near, int32_t far, __m256i shuffle, __m256i weights) {
    const __m256i pixels = _mm256_inserti128_si256(_mm256_castsi128_si256(load128(row + near)), load128(row + far), 1);
    return _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, shuffle), weights);
}

template <int kChannels>
void combine_columns_by(const int16_t* row, const Columns& columns, const Affine& affine, float* const planes[3]) {
    // Brings the same channel of two neighbouring pixels side by side, as pmaddwd wants them.
    const __m256i shuffle =
        kChannels == 3 ? _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, 4, 5, 10, 11))
                       : _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    const int padded = (columns.count + 7) & ~7;
    const Planes target(affine, planes);
    int x = 0;
    for (; x + 8 <= columns.count; x += 8) {
        const int32_t* at = columns.offsets + x;
        __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
        const int16_t* from = row;
        for (int p = 0; p < columns.pairs; ++p, from += 2 * kChannels) {
            const __m256i w = load256(columns.weights + static_cast<size_t>(p) * padded + x);
            sums[0] = _mm256_add_epi32(
                sums[0], column_pair<kChannels>(from, at[0], at[4], shuffle, _mm256_shuffle_epi32(w, 0x00)));
            sums[1] = _mm256_add_epi32(
                sums[1], column_pair<kChannels>(from, at[1], at[5], shuffle, _mm256_shuffle_epi32(w, 0x55)));
            sums[2] = _mm256_add_epi32(
                sums[2], column_pair<kChannels>(from, at[2], at[6], shuffle, _mm256_shuffle_epi32(w, 0xaa)));
            sums[3] = _mm256_add_epi32(
                sums[3], column_pair<kChannels>(from, at[3], at[7], shuffle, _mm256_shuffle_epi32(w, 0xff)));
        }
        target.store(sums, x);
    }
    combine_columns_from(x, row, kChannels, columns, affine, planes);
}

void combine_columns_avx2(const int16_t* row, int channels, const Columns& columns, const Affine& affine,
                          float* const planes[3]) {
    if (channels == 3) return combine_columns_by<3>(row, columns, affine, planes);
    combine_columns_by<4>(row, columns, affine, planes);
}

inline __m256i clipped_positions(const float* along, __m256 base) {
    const __m256 limit = _mm256_set1_ps(4194304.0f);
    const __m256 at = _mm256_add_ps(_mm256_loadu_ps(along), base);
    return _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(at, limit), _mm256_sub_ps(_mm256_setzero_ps(), limit)));
}

inline __m256i sample_pair(const uint8_t* row, int32_t near, int32_t far, __m256i shuffle, __m256i weights) {
    const __m256i pixels = _mm256_inserti128_si256(_mm256_castsi128_si256(load128(row + near)), load128(row + far), 1);
    return _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, shuffle), weights);
}

inline __m256i positions(const float* along, __m256 base) {
    return _mm256_cvtps_epi32(_mm256_add_ps(_mm256_loadu_ps(along), base));
}

template <int kChannels, bool kAllInside>
void align_row_by(const Source& source, const AlignRow& row, const Affine& affine, float* const planes[3]) {
    constexpr int one = 1 << kPositionBits;
    const __m256i shuffle =
        kChannels == 3
            ? _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1))
            : _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, -1, -1, -1, -1));
    const __m256i both = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 0, -1, 4, -1, 4, -1, 8, -1, 8, -1, 12, -1, 12, -1));
    const __m256i last_x = _mm256_set1_epi32(last_column(source)), last_y = _mm256_set1_epi32(source.height - 2);
    const __m256i fraction = _mm256_set1_epi32(one - 1), whole = _mm256_set1_epi32(one);
    const __m256i stride = _mm256_set1_epi32(static_cast<int32_t>(source.stride));
    const __m256i origin = _mm256_set1_epi32(static_cast<int32_t>(source.origin));
    const __m256 base_x = _mm256_set1_ps(row.base_x), base_y = _mm256_set1_ps(row.base_y);
    const float* const along_x = row.along_x;
    const float* const along_y = row.along_y;
    const uint8_t* const top = source.data;
    const uint8_t* const bottom = source.data + source.stride;
    const Planes target(affine, planes);
    const int count = row.count;
    int i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m256i px = kAllInside ? positions(along_x + i, base_x) : clipped_positions(along_x + i, base_x);
        const __m256i py = kAllInside ? positions(along_y + i, base_y) : clipped_positions(along_y + i, base_y);
        const __m256i x = _mm256_srai_epi32(px, kPositionBits), y = _mm256_srai_epi32(py, kPositionBits);
        if (!kAllInside) {
            // Unsigned minimum: a negative position is a huge one.
            const __m256i inside = _mm256_and_si256(_mm256_cmpeq_epi32(_mm256_min_epu32(x, last_x), x),
                                                    _mm256_cmpeq_epi32(_mm256_min_epu32(y, last_y), y));
            if (_mm256_movemask_epi8(inside) != -1) {
                for (int j = i; j < i + 8; ++j) align_pixel(source, row, affine, planes, j);
                continue;
            }
        }
        const __m256i fx = _mm256_and_si256(px, fraction), fy = _mm256_and_si256(py, fraction);
        const __m256i across = _mm256_or_si256(_mm256_sub_epi32(whole, fx), _mm256_slli_epi32(fx, 16));
        const __m256i down = _mm256_shuffle_epi8(fy, both);
        const __m256i lower = _mm256_mullo_epi16(across, down);
        const __m256i upper = _mm256_sub_epi16(_mm256_slli_epi16(across, kPositionBits), lower);
        const __m256i x_bytes = kChannels == 3 ? _mm256_add_epi32(x, _mm256_add_epi32(x, x)) : _mm256_slli_epi32(x, 2);
        alignas(32) int32_t at[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(at), _mm256_sub_epi32(_mm256_add_epi32(_mm256_mullo_epi32(y, stride), x_bytes), origin));
        __asm__("" : "+m"(at));  // else GCC takes the numbers out of the register one by one, which costs twice as much
        const __m256i sums[4] = {
            _mm256_add_epi32(sample_pair(top, at[0], at[4], shuffle, _mm256_shuffle_epi32(upper, 0x00)),
                             sample_pair(bottom, at[0], at[4], shuffle, _mm256_shuffle_epi32(lower, 0x00))),
            _mm256_add_epi32(sample_pair(top, at[1], at[5], shuffle, _mm256_shuffle_epi32(upper, 0x55)),
                             sample_pair(bottom, at[1], at[5], shuffle, _mm256_shuffle_epi32(lower, 0x55))),
            _mm256_add_epi32(sample_pair(top, at[2], at[6], shuffle, _mm256_shuffle_epi32(upper, 0xaa)),
                             sample_pair(bottom, at[2], at[6], shuffle, _mm256_shuffle_epi32(lower, 0xaa))),
            _mm256_add_epi32(sample_pair(top, at[3], at[7], shuffle, _mm256_shuffle_epi32(upper, 0xff)),
                             sample_pair(bottom, at[3], at[7], shuffle, _mm256_shuffle_epi32(lower, 0xff)))};
        target.store(sums, i);
    }
    for (; i < count; ++i) align_pixel(source, row, affine, planes, i);
}

void align_row_avx2(const Source& source, const AlignRow& row, const Affine& affine, float* const planes[3]) {
    // Offsets are 32 bits here; a picture of 2 GB takes the plain loop.
    const ptrdiff_t reach = (source.stride < 0 ? -source.stride : source.stride) * source.height;
    if (reach > INT32_MAX) return align_row(source, row, affine, planes);
    if (last_column(source) < 0 || source.height < 2) return align_row(source, row, affine, planes);
    const bool inside = all_inside(source, row);
    if (source.channels == 3)
        return inside ? align_row_by<3, true>(source, row, affine, planes) : align_row_by<3, false>(source, row, affine, planes);
    inside ? align_row_by<4, true>(source, row, affine, planes) : align_row_by<4, false>(source, row, affine, planes);
}

// Eight numbers to sixteen, each twice.
inline __m256i twice(__m128i v) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi16(v, v)), _mm_unpackhi_epi16(v, v), 1);
}

inline __m128i chroma(const uint8_t* samples) {  // (sample - 128) * 256
    const __m128i high = _mm_unpacklo_epi8(_mm_setzero_si128(), _mm_loadl_epi64(reinterpret_cast<const __m128i*>(samples)));
    return _mm_xor_si128(high, _mm_set1_epi16(INT16_MIN));
}

void camera_row_avx2(const uint8_t* y, const uint8_t* u, const uint8_t* v, const CameraColour& colour, size_t width,
                     uint8_t* bgrx) {
    const __m128i black = _mm_set1_epi8(static_cast<char>(colour.black));
    const __m256i to_luma = _mm256_set1_epi16(colour.luma), half = _mm256_set1_epi16(32);
    const __m128i to_red = _mm_set1_epi16(colour.v_to_red), to_blue = _mm_set1_epi16(colour.u_to_blue);
    const __m128i u_to_green = _mm_set1_epi16(colour.u_to_green), v_to_green = _mm_set1_epi16(colour.v_to_green);
    size_t x = 0;
    for (; x + 16 <= width; x += 16) {
        const __m256i bright = _mm256_cvtepu8_epi16(_mm_subs_epu8(load128(y + x), black));
        const __m256i luma = _mm256_add_epi16(_mm256_mulhrs_epi16(_mm256_slli_epi16(bright, 7), to_luma), half);
        const __m128i cu = chroma(u + x / 2), cv = chroma(v + x / 2);
        const __m128i green_part = _mm_add_epi16(_mm_mulhrs_epi16(cu, u_to_green), _mm_mulhrs_epi16(cv, v_to_green));
        const __m256i blue = _mm256_srai_epi16(_mm256_adds_epi16(luma, twice(_mm_mulhrs_epi16(cu, to_blue))), 6);
        const __m256i green = _mm256_srai_epi16(_mm256_adds_epi16(luma, twice(green_part)), 6);
        const __m256i red = _mm256_srai_epi16(_mm256_adds_epi16(luma, twice(_mm_mulhrs_epi16(cv, to_red))), 6);
        const __m256i blue_red = _mm256_packus_epi16(blue, red), green_zero = _mm256_packus_epi16(green, _mm256_setzero_si256());
        const __m256i bg = _mm256_unpacklo_epi8(blue_red, green_zero), rx = _mm256_unpackhi_epi8(blue_red, green_zero);
        const __m256i even = _mm256_unpacklo_epi16(bg, rx), odd = _mm256_unpackhi_epi16(bg, rx);  // 0-3 8-11, 4-7 12-15
        __m256i* to = reinterpret_cast<__m256i*>(bgrx + 4 * x);
        _mm256_storeu_si256(to, _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(even, odd, 0x31));
    }
    camera_row(y + x, u + x / 2, v + x / 2, colour, width - x, bgrx + 4 * x);
}

void to_float16_avx2(const float* in, uint16_t* out, size_t count) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
    to_float16(in + i, out + i, count - i);
}

// The sums of eight vectors of eight, in order.
inline __m256i sum_each(const __m256i v[8]) {
    const __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

void dot_int8_avx2(const int8_t* templates, size_t rows, size_t columns, const int8_t* probe, int32_t* dots) {
    const size_t whole = columns & ~static_cast<size_t>(15);
    size_t r = 0;
    for (; r + 8 <= rows; r += 8) {
        const int8_t* block = templates + r * columns;
        __m256i sums[8];
        for (__m256i& sum : sums) sum = _mm256_setzero_si256();
        for (size_t i = 0; i < whole; i += 16) {
            const __m256i p = _mm256_cvtepi8_epi16(load128(probe + i));
            for (int j = 0; j < 8; ++j) {
                const __m256i t = _mm256_cvtepi8_epi16(load128(block + j * columns + i));
                sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(t, p));
            }
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(dots + r), sum_each(sums));
        if (whole < columns)
            for (int j = 0; j < 8; ++j) dots[r + j] += dot_int8_tail(block + j * columns, probe, whole, columns);
    }
    dot_int8(templates + r * columns, rows - r, columns, probe, dots + r);
}
}  // namespace

const Primitives avx2_primitives = EDGEFACE_TABLE("avx2", combine_columns_avx2, combine_rows_avx2, align_row_avx2,
                                                  camera_row_avx2, to_float16_avx2, dot_int8_avx2);
}  // namespace edgeface

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
