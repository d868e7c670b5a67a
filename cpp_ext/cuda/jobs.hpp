// What the CUDA kernels are given: one struct each, passed by value. edgeface/runtime/cuda_kernels.py has the same
// layouts as numpy dtypes; tests/driver/test_kernels_host.py holds one against the other.
#pragma once

#include <cstdint>

#include "../camera.hpp"

namespace edgeface::cuda {

struct Picture {
    const uint8_t* data;  // BGR: (height, width, 3). NV12: luma, then U and V in turn at half the height
    int64_t stride;       // bytes from row to row
    int32_t height, width;
    CameraColour camera;  // NV12 only
};

// value = sum of weighted grey levels * factor + summand, for blue, green and red.
struct Channels {
    float factor[3], summand[3];
    int32_t rgb;  // the tensor's first plane is red
};

struct LetterboxJob {
    Picture picture;
    float* out;  // (3, height, width)
    // Of each row and column of the picture inside the tensor: the first source index, and the weights from there on.
    const int32_t *first_y, *first_x;
    const int16_t *weights_y, *weights_x;  // (rows, taps_y), (columns, taps_x)
    int32_t taps_y, taps_x;
    int32_t height, width;             // of the tensor
    int32_t top, left, rows, columns;  // of the picture inside it
    Channels channels;
    float pad[3];  // around the picture, blue, green and red
};

struct AlignJob {
    Picture picture;
    float* out;              // (faces, 3, height, width)
    const double* matrices;  // (faces, 2, 3): frame to crop
    float* positions;        // (faces, 2 * width + 2 * height): written by align_positions, read by the others
    int32_t height, width;
    Channels channels;
};

}  // namespace edgeface::cuda
