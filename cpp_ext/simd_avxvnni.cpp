// The int8 dot product with the VNNI instructions, which multiply unsigned by signed bytes without saturating.
//
// A template byte t becomes the unsigned t + 128; 128 * (sum of the probe) is taken off again at the end. Exact: the
// wrapper allows at most 65,536 columns, and 255 * 128 * 65,536 is below 2**31.
#include "primitives.hpp"
#include "tables.hpp"

#if defined(EDGEFACE_AVXVNNI)
#include <immintrin.h>

namespace edgeface {
namespace {
#include "simd_dot.inl"

__attribute__((target("avx2"))) inline __m256i sum_each(const __m256i v[8]) {
    const __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

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

Primitives with_dot() {
    Primitives table = avx2_primitives;
    table.name = "avxvnni";
    table.dot_int8 = dot_int8_avxvnni;
    return table;
}
}  // namespace

const Primitives& avxvnni_primitives() {
    static const Primitives table = with_dot();
    return table;
}

}  // namespace edgeface
#endif
