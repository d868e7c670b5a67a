// The tables that exist, and how one is filled. Entries name the functions that generic.inl or a simd_*.cpp file
// defines in the namespace where the macro stands.
#pragma once

#include "primitives.hpp"

namespace edgeface {

extern const Primitives scalar_primitives;
#if defined(__x86_64__)
#if defined(__clang__) || __GNUC__ >= 11  // GCC 9 and 10 do not know the instruction
#define EDGEFACE_AVXVNNI 1
#endif
extern const Primitives avx2_primitives;        // AVX2, F16C
const Primitives& avxvnni_primitives();     // + AVX-VNNI, 256 bits
const Primitives& avx512vnni_primitives();  // + AVX-512 F, BW, VL, VNNI
#elif defined(__aarch64__)
extern const Primitives neon_primitives;
extern const Primitives dotprod_primitives;  // + the dot-product instructions of Armv8.2
#endif

}  // namespace edgeface

#define EDGEFACE_TABLE(name, columns, rows, align, camera, half, dot)                                              \
    {                                                                                                              \
        name, rows, columns, align, camera, grey_to_bgrx, split_pairs, scale_row,                           \
            interleave, half, to_int8, dot, dot_float32, any_above_int32, any_above_float32, normalize_row,        \
            quantize, suppress, grey_row, sums, laplacian_row, read_once                                           \
    }
#define EDGEFACE_GENERIC_TABLE(name) \
    EDGEFACE_TABLE(name, combine_columns, combine_rows, align_row, camera_row, to_float16, dot_int8)
