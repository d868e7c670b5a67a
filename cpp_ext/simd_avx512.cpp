// AVX-512 with VNNI: the int8 dot product as in simd_avxvnni.cpp, and align sixteen pixels at a time.
#include "primitives.hpp"
#include "tables.hpp"

#if defined(__x86_64__)
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns inside its own avx512fintrin.h
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

namespace edgeface {
namespace {
#include "align_pixel.inl"
#include "simd_dot.inl"

#define EDGEFACE_AVX512 __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vnni")))

// Neighbouring numbers of a and b added: sums of a and of b then alternate, in each 128 bits.
EDGEFACE_AVX512 inline __m512i add_pairs32(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}

EDGEFACE_AVX512 inline __m512i add_pairs64(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

// The sums of eight vectors of sixteen, in order.
EDGEFACE_AVX512 inline __m256i sum_each_wide(const __m512i v[8]) {
    const __m512i low = add_pairs64(add_pairs32(v[0], v[1]), add_pairs32(v[2], v[3]));   // 0 1 2 3, four times
    const __m512i high = add_pairs64(add_pairs32(v[4], v[5]), add_pairs32(v[6], v[7]));  // 4 5 6 7, four times
    // The masked form, with every bit set: GCC 12 warns inside the plain one, whatever is asked for.
    const __m256i a = _mm256_add_epi32(_mm512_castsi512_si256(low), _mm512_maskz_extracti64x4_epi64(0xff, low, 1));
    const __m256i b = _mm256_add_epi32(_mm512_castsi512_si256(high), _mm512_maskz_extracti64x4_epi64(0xff, high, 1));
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

EDGEFACE_AVX512 void dot_int8_avx512vnni(
    const int8_t* templates, size_t rows, size_t columns, const int8_t* probe, int32_t* dots) {
    const __m512i flip = _mm512_set1_epi8(-128);
    const __m256i excess = _mm256_set1_epi32(128 * sum_of(probe, columns));
    const size_t whole = columns & ~static_cast<size_t>(63);
    // The probe is zero past its end, so whatever the flip makes of the missing template bytes does not count.
    const __mmask64 rest = (UINT64_C(1) << (columns - whole)) - 1;
    size_t r = 0;
    for (; r + 8 <= rows; r += 8) {
        const int8_t* block = templates + r * columns;
        // Hardware prefetchers stop at each page; 64 rows ahead are 8 KB of 128-d templates. Prefetches never fault.
        for (size_t ahead = 0; ahead < 8 * columns; ahead += 64) __builtin_prefetch(block + 64 * columns + ahead);
        __m512i sums[8];
        for (__m512i& sum : sums) sum = _mm512_setzero_si512();
        for (size_t i = 0; i < whole; i += 64) {
            const __m512i p = _mm512_loadu_si512(probe + i);
            for (int j = 0; j < 8; ++j)
                sums[j] = _mm512_dpbusd_epi32(
                    sums[j], _mm512_xor_si512(_mm512_loadu_si512(block + j * columns + i), flip), p);
        }
        if (rest) {
            const __m512i p = _mm512_loadu_si512(probe + whole);
            for (int j = 0; j < 8; ++j)
                sums[j] = _mm512_dpbusd_epi32(
                    sums[j], _mm512_xor_si512(_mm512_maskz_loadu_epi8(rest, block + j * columns + whole), flip), p);
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(dots + r), _mm256_sub_epi32(sum_each_wide(sums), excess));
    }
    for (; r < rows; ++r) dots[r] = plain_dot(templates + r * columns, probe, 0, columns);
}

EDGEFACE_AVX512 inline __m128i load128(const uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }

// Pixels k, k + 4, k + 8 and k + 12, two neighbours of each, weighted: the channels of each in a quarter.
EDGEFACE_AVX512 inline __m512i sample_four(const uint8_t* row, const int32_t* at, __m512i shuffle, __m512i weights) {
    __m512i pixels = _mm512_castsi128_si512(load128(row + at[0]));
    pixels = _mm512_inserti32x4(pixels, load128(row + at[4]), 1);
    pixels = _mm512_inserti32x4(pixels, load128(row + at[8]), 2);
    pixels = _mm512_inserti32x4(pixels, load128(row + at[12]), 3);
    return _mm512_madd_epi16(_mm512_shuffle_epi8(pixels, shuffle), weights);
}

// A row whose every pixel lies inside the source, as align_row_avx2 makes sure before; see there for the steps.
template <int kChannels>
EDGEFACE_AVX512 void align_inside(const Source& source, const AlignRow& row, const Affine& affine, float* const planes[3]) {
    const __m512i shuffle = _mm512_broadcast_i32x4(
        kChannels == 3 ? _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1)
                       : _mm_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, -1, -1, -1, -1));
    const __m512i both = _mm512_broadcast_i32x4(_mm_setr_epi8(0, -1, 0, -1, 4, -1, 4, -1, 8, -1, 8, -1, 12, -1, 12, -1));
    constexpr int one = 1 << kPositionBits;
    const __m512i fraction = _mm512_set1_epi32(one - 1), whole = _mm512_set1_epi32(one);
    const __m512i stride = _mm512_set1_epi32(static_cast<int32_t>(source.stride));
    const __m512i origin = _mm512_set1_epi32(static_cast<int32_t>(source.origin));
    const __m512 base_x = _mm512_set1_ps(row.base_x), base_y = _mm512_set1_ps(row.base_y);
    const uint8_t* const top = source.data;
    const uint8_t* const bottom = source.data + source.stride;
    int i = 0;
    for (; i + 16 <= row.count; i += 16) {
        const __m512i px = _mm512_cvtps_epi32(_mm512_add_ps(_mm512_loadu_ps(row.along_x + i), base_x));
        const __m512i py = _mm512_cvtps_epi32(_mm512_add_ps(_mm512_loadu_ps(row.along_y + i), base_y));
        const __m512i x = _mm512_srai_epi32(px, kPositionBits), y = _mm512_srai_epi32(py, kPositionBits);
        const __m512i fx = _mm512_and_si512(px, fraction), fy = _mm512_and_si512(py, fraction);
        const __m512i across = _mm512_or_si512(_mm512_sub_epi32(whole, fx), _mm512_slli_epi32(fx, 16));
        const __m512i lower = _mm512_mullo_epi16(across, _mm512_shuffle_epi8(fy, both));
        const __m512i upper = _mm512_sub_epi16(_mm512_slli_epi16(across, kPositionBits), lower);
        const __m512i x_bytes = kChannels == 3 ? _mm512_add_epi32(x, _mm512_add_epi32(x, x)) : _mm512_slli_epi32(x, 2);
        alignas(64) int32_t at[16];
        _mm512_store_si512(at, _mm512_sub_epi32(_mm512_add_epi32(_mm512_mullo_epi32(y, stride), x_bytes), origin));
        __asm__("" : "+m"(at));  // else GCC takes the numbers out of the register one by one
        const __m512 p0 = _mm512_cvtepi32_ps(
            _mm512_add_epi32(sample_four(top, at, shuffle, _mm512_shuffle_epi32(upper, _MM_PERM_AAAA)),
                             sample_four(bottom, at, shuffle, _mm512_shuffle_epi32(lower, _MM_PERM_AAAA))));
        const __m512 p1 = _mm512_cvtepi32_ps(
            _mm512_add_epi32(sample_four(top, at + 1, shuffle, _mm512_shuffle_epi32(upper, _MM_PERM_BBBB)),
                             sample_four(bottom, at + 1, shuffle, _mm512_shuffle_epi32(lower, _MM_PERM_BBBB))));
        const __m512 p2 = _mm512_cvtepi32_ps(
            _mm512_add_epi32(sample_four(top, at + 2, shuffle, _mm512_shuffle_epi32(upper, _MM_PERM_CCCC)),
                             sample_four(bottom, at + 2, shuffle, _mm512_shuffle_epi32(lower, _MM_PERM_CCCC))));
        const __m512 p3 = _mm512_cvtepi32_ps(
            _mm512_add_epi32(sample_four(top, at + 3, shuffle, _mm512_shuffle_epi32(upper, _MM_PERM_DDDD)),
                             sample_four(bottom, at + 3, shuffle, _mm512_shuffle_epi32(lower, _MM_PERM_DDDD))));
        const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(p0, p1)), low23 = _mm512_castps_pd(_mm512_unpacklo_ps(p2, p3));
        const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(p0, p1));
        const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(p2, p3));
        const __m512 channels[3] = {_mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23)),
                                    _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23)),
                                    _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23))};
        for (int c = 0; c < 3; ++c)
            _mm512_storeu_ps(planes[c] + i, _mm512_add_ps(_mm512_mul_ps(channels[c], _mm512_set1_ps(affine.factor[c])),
                                                          _mm512_set1_ps(affine.summand[c])));
    }
    for (; i < row.count; ++i) align_pixel(source, row, affine, planes, i);
}

void align_row_avx512(const Source& source, const AlignRow& row, const Affine& affine, float* const planes[3]) {
    if (!all_inside(source, row)) return avx2_primitives.align_row(source, row, affine, planes);
    if (source.channels == 3) return align_inside<3>(source, row, affine, planes);
    align_inside<4>(source, row, affine, planes);
}

// Everything else as the AVX2 table has it.
Primitives with_avx512() {
    Primitives table = avx2_primitives;
    table.name = "avx512vnni";
    table.align_row = align_row_avx512;
    table.dot_int8 = dot_int8_avx512vnni;
    return table;
}
}  // namespace

const Primitives& avx512vnni_primitives() {
    static const Primitives table = with_avx512();
    return table;
}

}  // namespace edgeface
#endif
