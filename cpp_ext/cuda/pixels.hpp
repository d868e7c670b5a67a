// The arithmetic of one pixel, for the GPU and, compiled as plain C++, for the tests. It is that of the kernels in
// ../letterbox.cpp and ../align.cpp, whose specification is edgeface/_kernels_py_pixels.py: integers up to the last
// step, then one multiplication and one addition that must not be fused (nvcc --fmad=false, gcc -ffp-contract=off).
#pragma once

#include "../primitives.hpp"
#include "jobs.hpp"

#ifdef __CUDACC__
#define EDGEFACE_BOTH __host__ __device__ inline
#else
#define EDGEFACE_BOTH inline
#endif

namespace edgeface::cuda {

struct Bgr {
    uint8_t level[3];
};

EDGEFACE_BOTH int32_t high_half(int32_t a, int32_t b) { return (a * b + (1 << 14)) >> 15; }

EDGEFACE_BOTH uint8_t byte_of(int32_t value) {  // of a number with 6 bits of fraction
    value = (value + 32) >> 6;
    return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

struct BgrReader {
    EDGEFACE_BOTH static Bgr read(const Picture& from, int x, int y) {
        const uint8_t* pixel = from.data + y * from.stride + 3 * static_cast<int64_t>(x);
        return {{pixel[0], pixel[1], pixel[2]}};
    }
};

struct Nv12Reader {
    EDGEFACE_BOTH static Bgr read(const Picture& from, int x, int y) {
        const CameraColour& colour = from.camera;
        const uint8_t* chroma = from.data + (from.height + y / 2) * from.stride + (x & ~1);
        const int32_t dark = from.data[y * from.stride + x] - colour.black;
        const int32_t luma = high_half((dark > 0 ? dark : 0) * 128, colour.luma);
        const int32_t u = (chroma[0] - 128) * 256, v = (chroma[1] - 128) * 256;
        return {{byte_of(luma + high_half(u, colour.u_to_blue)),
                 byte_of(luma + (high_half(u, colour.u_to_green) + high_half(v, colour.v_to_green))),
                 byte_of(luma + high_half(v, colour.v_to_red))}};
    }
};

// Puts the blue, green and red value of one pixel into the planes of an (3, height, width) tensor.
EDGEFACE_BOTH void store(float* out, int64_t plane, int64_t at, int32_t rgb, const float value[3]) {
    for (int c = 0; c < 3; ++c) out[(rgb ? 2 - c : c) * plane + at] = value[c];
}

template <class Reader>
EDGEFACE_BOTH void letterbox_pixel(const LetterboxJob& job, int x, int y) {
    const int row = y - job.top, column = x - job.left;
    float value[3] = {job.pad[0], job.pad[1], job.pad[2]};
    if (row >= 0 && row < job.rows && column >= 0 && column < job.columns) {
        int32_t sum[3] = {0, 0, 0};
        for (int i = 0; i < job.taps_x; ++i) {
            const int32_t across = job.weights_x[static_cast<int64_t>(column) * job.taps_x + i];
            if (across == 0) continue;  // a tap of weight 0 may lie past the last column
            constexpr int32_t half = 1 << (kWeightBits - kRowBits - 1);
            int32_t combined[3] = {half, half, half};
            for (int j = 0; j < job.taps_y; ++j) {
                const int32_t down = job.weights_y[static_cast<int64_t>(row) * job.taps_y + j];
                if (down == 0) continue;
                const Bgr pixel = Reader::read(job.picture, job.first_x[column] + i, job.first_y[row] + j);
                for (int c = 0; c < 3; ++c) combined[c] += down * pixel.level[c];
            }
            for (int c = 0; c < 3; ++c) sum[c] += across * (combined[c] >> (kWeightBits - kRowBits));
        }
        for (int c = 0; c < 3; ++c)
            value[c] = static_cast<float>(sum[c]) * job.channels.factor[c] + job.channels.summand[c];
    }
    store(job.out, static_cast<int64_t>(job.height) * job.width, static_cast<int64_t>(y) * job.width + x,
          job.channels.rgb, value);
}

// A crop's pixel (x, y) lies at (positions[x] + positions[2 w + y], positions[w + x] + positions[2 w + h + y]) in the
// frame, in 1/128 pixel. `part` of `parts` workers fills its share of one face's positions.
EDGEFACE_BOTH void align_positions(const AlignJob& job, int face, int part, int parts) {
    const double* m = job.matrices + 6 * static_cast<int64_t>(face);
    const double determinant = m[0] * m[4] - m[1] * m[3];
    double inverse[6] = {m[4], -m[1], m[1] * m[5] - m[2] * m[4], -m[3], m[0], m[2] * m[3] - m[0] * m[5]};
    bool invertible = determinant > 1e-12 || determinant < -1e-12;
    for (double& value : inverse) {
        value /= determinant;
        invertible = invertible && value < 1e9 && value > -1e9;
    }
    const double unit = 1 << kPositionBits;
    float* positions = job.positions + static_cast<int64_t>(face) * 2 * (job.width + job.height);
    for (int i = part; i < 2 * (job.width + job.height); i += parts) {
        const bool of_column = i < 2 * job.width;
        const int index = of_column ? i : i - 2 * job.width, count = of_column ? job.width : job.height;
        const int axis = index >= count;  // 0 for x in the frame, 1 for y
        const double at = index - axis * count;
        const double* line = inverse + 3 * axis;
        double position = of_column ? unit * line[0] * at : unit * (line[1] * at + line[2]);
        if (!invertible) position = of_column ? 0 : unit * -32768;  // all outside: a black crop
        positions[i] = static_cast<float>(position);
    }
}

// To the nearest whole number, half to even; see round_even in ../align_pixel.inl.
EDGEFACE_BOTH int32_t position_of(float along, float base) {
    const float limit = 4194304.0f;  // 2**22: one pixel beyond the largest frame
    float at = along + base;
    at = at < -limit ? -limit : at > limit ? limit : at;
    return static_cast<int32_t>((at + 12582912.0f) - 12582912.0f);
}

template <class Reader>
EDGEFACE_BOTH void align_pixel(const AlignJob& job, int x, int y, int face) {
    constexpr int one = 1 << kPositionBits;
    constexpr float unit = 1.0f / (1 << kWeightBits);
    const float* positions = job.positions + static_cast<int64_t>(face) * 2 * (job.width + job.height);
    const float* bases = positions + 2 * job.width;
    const int32_t px = position_of(positions[x], bases[y]);
    const int32_t py = position_of(positions[job.width + x], bases[job.height + y]);
    const int32_t fx = px & (one - 1), fy = py & (one - 1);
    int32_t sum[3] = {0, 0, 0};
    for (int tap = 0; tap < 4; ++tap) {
        const int32_t sx = (px >> kPositionBits) + (tap & 1), sy = (py >> kPositionBits) + (tap >> 1);
        if (sx < 0 || sy < 0 || sx >= job.picture.width || sy >= job.picture.height) continue;
        const int32_t weight = (tap & 1 ? fx : one - fx) * (tap >> 1 ? fy : one - fy);
        const Bgr pixel = Reader::read(job.picture, sx, sy);
        for (int c = 0; c < 3; ++c) sum[c] += weight * pixel.level[c];
    }
    float value[3];
    for (int c = 0; c < 3; ++c)
        value[c] = static_cast<float>(sum[c]) * (job.channels.factor[c] * unit) + job.channels.summand[c];
    const int64_t plane = static_cast<int64_t>(job.height) * job.width;
    store(job.out + 3 * plane * face, plane, static_cast<int64_t>(y) * job.width + x, job.channels.rgb, value);
}

}  // namespace edgeface::cuda
