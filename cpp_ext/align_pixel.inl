// One pixel of an aligned crop, wherever it lies. Included by generic.inl and simd_avx512.cpp inside their namespaces.

// To the nearest whole number, half to even, for |value| <= 2**22: adding 1.5 * 2**23 leaves no room for a fraction.
// Unlike rintf this vectorises on every instruction set.
inline float round_even(float value) { return (value + 12582912.0f) - 12582912.0f; }

inline int32_t position(float along, float base) {
    const float limit = 4194304.0f;  // 2**22: one pixel beyond the largest frame
    float at = along + base;
    at = at < -limit ? -limit : at > limit ? limit : at;
    return static_cast<int32_t>(round_even(at));
}

void align_pixel(const Source& source, const AlignRow& row, const Affine& affine, float* const planes[3], int i) {
    constexpr int one = 1 << kPositionBits;
    const int32_t px = position(row.along_x[i], row.base_x), py = position(row.along_y[i], row.base_y);
    const int32_t x = px >> kPositionBits, y = py >> kPositionBits, fx = px & (one - 1), fy = py & (one - 1);
    int32_t sums[3] = {0, 0, 0};
    for (int tap = 0; tap < 4; ++tap) {
        const int32_t sx = x + (tap & 1), sy = y + (tap >> 1);
        if (sx < 0 || sy < 0 || sx >= source.width || sy >= source.height) continue;
        const int32_t weight = (tap & 1 ? fx : one - fx) * (tap >> 1 ? fy : one - fy);
        const uint8_t* pixel = source.data + (sy * source.stride + static_cast<ptrdiff_t>(sx) * source.channels - source.origin);
        for (int c = 0; c < 3; ++c) sums[c] += weight * pixel[c];
    }
    for (int c = 0; c < 3; ++c) planes[c][i] = static_cast<float>(sums[c]) * affine.factor[c] + affine.summand[c];
}

// Vector loops read sixteen bytes at each pixel, so the last pixels of a row are left to align_pixel.
[[maybe_unused]] inline int last_column(const Source& source) { return source.width - (source.channels == 3 ? 6 : 4); }

// Whether vector loops can take the whole row without looking. Positions rise or fall along it, also once rounded: where
// both its ends lie inside, all of it does. Offsets are 32 bits there, so not in a picture of 2 GB.
[[maybe_unused]] inline bool all_inside(const Source& source, const AlignRow& row) {
    const ptrdiff_t reach = (source.stride < 0 ? -source.stride : source.stride) * source.height;
    if (reach > INT32_MAX) return false;
    const int ends[2] = {0, row.count - 1};
    for (int end : ends) {
        const int32_t x = position(row.along_x[end], row.base_x) >> kPositionBits;
        const int32_t y = position(row.along_y[end], row.base_y) >> kPositionBits;
        if (x < 0 || x > last_column(source) || y < 0 || y > source.height - 2) return false;
    }
    return true;
}
