// The kernels of edgeface, as plain C++: no Python, no files, no models.
//
// Every function trusts its arguments: edgeface/_kernels_check.py has looked at them before. Working memory belongs to
// the calling thread (Workspace in each .cpp file), grows to the largest size seen and is then used again.
#pragma once

#include <cstddef>
#include <cstdint>

#include "camera.hpp"

namespace edgeface {

enum class PixelFormat { bgr, rgb, bgra, gray, nv12, i420, yuyv };
enum class ElementType { float32, float16, int8 };

struct Frame {
    const uint8_t* data;
    ptrdiff_t stride;  // bytes from row to row
    int height;        // of the picture, also for NV12 and I420
    int width;
    PixelFormat format;
};

struct Tensor {  // one (3, h, w) or (h, w, 3) picture, C-contiguous
    void* data;
    int height;
    int width;
    ElementType type;
    bool channels_last;
};

struct Colour {
    bool rgb;            // order of the tensor's channels
    float factor[3];     // value = grey level * factor + summand, in the tensor's channel order
    float summand[3];
    CameraColour camera;
};

// value = (grey level - mean) / deviation / scale. The arithmetic is that of affine() and camera_coefficients() in
// edgeface/_kernels_py_pixels.py, in double until the last step.
Colour make_colour(bool rgb, const double mean[3], const double deviation[3], double scale, bool bt709, bool full_range);

struct Place {
    int height, width;  // of the picture inside the tensor
    int top, left;
    float pad;  // grey level around it
};

void letterbox(const Frame& frame, const Tensor& out, const Place& place, const Colour& colour);

// landmarks (faces, points, 2), goal (points, 2), matrices (faces, 2, 3): frame to crop.
void similarity_transforms(const float* landmarks, int faces, int points, const double* goal, double* matrices);

// One face through one matrix (2, 3). crop: (h, w, 3) BGR, or null.
void align(const Frame& frame, const double* matrix, const Tensor& out, const Colour& colour, uint8_t* crop);

struct DetectorMap {  // one stride of a detector's output, row by row
    const float* scores;      // YuNet: cls. SCRFD: the score
    const float* objectness;  // YuNet only; null for SCRFD
    const float* boxes;       // (anchors, 4)
    const float* landmarks;   // (anchors, 10)
    int rows, columns, stride;
    int anchors_per_cell;
};

struct DetectorOptions {
    float score_threshold;
    float nms_iou;
    size_t top_k;
    size_t max_faces;
    float blend_iou = 2.0f;  // cells whose boxes overlap a face's by this much share in its points; above 1: none do
};

struct Detection {
    float box[4];
    float score;
    float landmarks[10];
};

// The faces lie in memory of the calling thread until its next call of this function; returns how many there are.
size_t decode(const DetectorMap* maps, size_t count, const DetectorOptions& options, const Detection** faces);

void l2_normalize(const float* x, size_t rows, size_t columns, float* out);
void quantize_templates(const float* x, size_t count, float scale, int8_t* out);

// templates (rows, columns), probes (queries, columns), mask (rows) or null, results (queries, k).
void scan_int8(const int8_t* templates, size_t rows, size_t columns, const int8_t* probes, size_t queries, size_t k,
               const uint8_t* mask, int64_t* indices, int32_t* dots);
void scan_float32(const float* templates, size_t rows, size_t columns, const float* probes, size_t queries, size_t k,
                  const uint8_t* mask, int64_t* indices, float* dots);

struct Quality {
    double sharpness, exposure, contrast;
};

// One (height, width, 3) BGR crop. Sharpness costs a second pass: only when asked for.
Quality quality(const uint8_t* crop, int height, int width, bool with_sharpness);

// Xor of all bytes, read once: what the memory alone allows. For the benchmark.
uint64_t read_once(const uint8_t* data, size_t bytes);

}  // namespace edgeface
