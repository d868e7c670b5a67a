// The int8 dot product with the VNNI instructions, which multiply unsigned by signed bytes without saturating.
//
// A template byte t becomes the unsigned t + 128; 128 * (sum of the probe) is taken off again at the end. Exact: the
// wrapper allows at most 65,536 columns, and 255 * 128 * 65,536 is below 2**31.
#include "primitives.hpp"
#include "tables.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns inside its own avx512fintrin.h
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace edgeface {
namespace {

inline int32_t sum_of(const int8_t* values, size_t count) {
    int32_t sum = 0;
    for (size_t i = 0; i < count; ++i) sum += values[i];
    return sum;
}

inline int32_t plain_dot(const int8_t* a, const int8_t* b, size_t from, size_t count) {
    int32_t sum = 0;
    for (size_t i = from; i < count; ++i) sum += static_cast<int32_t>(a[i]) * b[i];
    return sum;
}

__attribute__((target("avx2"))) inline __m256i sum_each(const __m256i v[8]) {
    const __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

#if defined(EDGEFACE_AVXVNNI)
__attribute__((target("avx2,avxvnni"))) void dot_int8_avxvnni(const int8_t* templates, size_t rows, size_t columns,
                                                              const int8_t* probe, int32_t* dots) {
    const size_t whole = columns & ~static_cast<size_t>(31);
    const __m256i flip = _mm256_set1_epi8(-128), excess = _mm256_set1_epi32(128 * sum_of(probe, whole));
    size_t r = 0;
    for (; r + 8 <= rows; r += 8) {
        const int8_t* block = templates + r * columns;
        __m256i sums[8];
        for (__m256i& sum : sums) sum = _mm256_setzero_si256();
        for (size_t i = 0; i < whole; i += 32) {
            const __m256i p = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(probe + i));
            for (int j = 0; j < 8; ++j) {
                const __m256i t = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + j * columns + i));
                sums[j] = _mm256_dpbusd_avx_epi32(sums[j], _mm256_xor_si256(t, flip), p);
            }
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(dots + r), _mm256_sub_epi32(sum_each(sums), excess));
        if (whole < columns)
            for (int j = 0; j < 8; ++j) dots[r + j] += plain_dot(block + j * columns, probe, whole, columns);
    }
    for (; r < rows; ++r) dots[r] = plain_dot(templates + r * columns, probe, 0, columns);
}
#endif

#define EDGEFACE_AVX512 __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vnni")))

// Sums of neighbouring numbers: those of a in the low half of each 64 bits... then of each 128 bits.
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
    const __m256i a = _mm256_add_epi32(_mm512_castsi512_si256(low), _mm512_extracti64x4_epi64(low, 1));
    const __m256i b = _mm256_add_epi32(_mm512_castsi512_si256(high), _mm512_extracti64x4_epi64(high, 1));
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

// Everything else as the AVX2 table has it.
Primitives with_dot(const char* name, decltype(Primitives::dot_int8) dot) {
    Primitives table = avx2_primitives;
    table.name = name;
    table.dot_int8 = dot;
    return table;
}

}  // namespace

#if defined(EDGEFACE_AVXVNNI)
const Primitives& avxvnni_primitives() {
    static const Primitives table = with_dot("avxvnni", dot_int8_avxvnni);
    return table;
}
#endif

const Primitives& avx512vnni_primitives() {
    static const Primitives table = with_dot("avx512vnni", dot_int8_avx512vnni);
    return table;
}

}  // namespace edgeface
#endif
