// Similarity transforms, and crops sampled through them straight into a tensor.
#include <algorithm>
#include <cmath>

#include "kernels.hpp"
#include "frame_rows.hpp"
#include "primitives.hpp"
#include "tensor_writer.hpp"

namespace edgeface {
namespace {

struct Workspace {
    std::vector<float> along_x, along_y;
    std::vector<uint8_t> part;
    RowConverter converter;
    TensorWriter writer;
};

Workspace& workspace() {
    static thread_local Workspace mine;
    return mine;
}

// The part of a frame that a crop's pixels lie in, as four bytes a pixel: converted once, then sampled.
Source converted_part(const Frame& frame, const CameraColour& camera, Workspace& work, const double inverse[6],
                      const Tensor& out) {
    double low[2] = {1e9, 1e9}, high[2] = {-1e9, -1e9};
    for (int corner = 0; corner < 4; ++corner) {
        const double x = corner & 1 ? out.width - 1 : 0, y = corner & 2 ? out.height - 1 : 0;
        for (int axis = 0; axis < 2; ++axis) {
            const double at = inverse[3 * axis] * x + inverse[3 * axis + 1] * y + inverse[3 * axis + 2];
            low[axis] = std::min(low[axis], at);
            high[axis] = std::max(high[axis], at);
        }
    }
    // Two pixels more on each side than the corners say: one for rounding, one for the neighbour. Even for chroma.
    const auto bound = [](double at, int limit) { return static_cast<int>(std::min(std::max(at, 0.0), limit * 1.0)); };
    const int left = bound(std::floor(low[0]) - 2, frame.width) & ~1, top = bound(std::floor(low[1]) - 2, frame.height);
    const int right = std::min((bound(std::ceil(high[0]) + 3, frame.width) + 1) & ~1, frame.width);
    const int bottom = bound(std::ceil(high[1]) + 3, frame.height);
    const int width = std::max(right - left, 0), height = std::max(bottom - top, 0);
    const ptrdiff_t stride = 4 * static_cast<ptrdiff_t>(width);
    uint8_t* part = room_for(work.part, static_cast<size_t>(stride) * height + 16);  // 16 bytes are read at a pixel
    for (int y = 0; y < height && width > 0; ++y)
        work.converter.convert(frame, camera, top + y, left, width, part + y * stride);
    return {part, top * stride + left * ptrdiff_t{4}, stride, frame.height, frame.width, 4};
}

}  // namespace

void similarity_transforms(const float* landmarks, int faces, int points, const double* goal, double* matrices) {
    for (int face = 0; face < faces; ++face, landmarks += 2 * points, matrices += 6) {
        double mean_px = 0, mean_py = 0, mean_qx = 0, mean_qy = 0;
        for (int i = 0; i < points; ++i) {
            mean_px += landmarks[2 * i];
            mean_py += landmarks[2 * i + 1];
            mean_qx += goal[2 * i];
            mean_qy += goal[2 * i + 1];
        }
        mean_px /= points;
        mean_py /= points;
        mean_qx /= points;
        mean_qy /= points;
        // Umeyama's closed form in the plane is one complex division; see the reference.
        double along = 0, across = 0, spread = 0;
        for (int i = 0; i < points; ++i) {
            const double px = landmarks[2 * i] - mean_px, py = landmarks[2 * i + 1] - mean_py;
            const double qx = goal[2 * i] - mean_qx, qy = goal[2 * i + 1] - mean_qy;
            along += px * qx + py * qy;
            across += px * qy - py * qx;
            spread += px * px + py * py;
        }
        const double a = spread > 0 ? along / spread : 0.0, b = spread > 0 ? across / spread : 0.0;
        matrices[0] = a;
        matrices[1] = -b;
        matrices[2] = mean_qx - (a * mean_px - b * mean_py);
        matrices[3] = b;
        matrices[4] = a;
        matrices[5] = mean_qy - (b * mean_px + a * mean_py);
    }
}

void align(const Frame& frame, const double* matrix, const Tensor& out, const Colour& colour, uint8_t* crop) {
    const Primitives& loops = primitives();
    Workspace& work = workspace();
    work.writer.open(out, colour);
    const size_t width = static_cast<size_t>(out.width);
    room_for(work.along_x, width);
    room_for(work.along_y, width);

    const double a = matrix[0], b = matrix[1], c = matrix[2], d = matrix[3], e = matrix[4], f = matrix[5];
    const double determinant = a * e - b * d;
    double inverse[6] = {e, -b, b * f - c * e, -d, a, c * d - a * f};
    // A limit on the numbers keeps every sum below finite; no frame is a thousand million pixels wide.
    bool invertible = std::fabs(determinant) > 1e-12;
    for (double& value : inverse) {
        value /= determinant;
        invertible = invertible && std::fabs(value) < 1e9;
    }
    const double unit = 1 << kPositionBits;
    if (!invertible) {  // all outside: a black crop
        std::fill(inverse, inverse + 6, 0.0);
        inverse[2] = inverse[5] = -32768;
    }
    const auto [xx, xy, x0, yx, yy, y0] = inverse;
    for (size_t x = 0; x < width; ++x) {
        work.along_x[x] = static_cast<float>(unit * xx * static_cast<double>(x));
        work.along_y[x] = static_cast<float>(unit * yx * static_cast<double>(x));
    }

    const bool red_first = frame.format == PixelFormat::rgb;
    const Source source = interleaved(frame.format)
                              ? Source{frame.data, 0, frame.stride, frame.height, frame.width, row_channels(frame.format)}
                              : converted_part(frame, colour.camera, work, inverse, out);
    // Straight into the tensor's numbers where nothing needs the grey levels in between.
    const bool direct = crop == nullptr;
    constexpr float weight_unit = 1.0f / (1 << kWeightBits);
    Affine affine{};
    for (int k = 0; k < 3; ++k) {
        const int from = red_first ? 2 - k : k;
        affine.factor[k] = direct ? work.writer.affine().factor[from] * weight_unit : weight_unit;
        affine.summand[k] = direct ? work.writer.affine().summand[from] : 0.0f;
    }
    for (int y = 0; y < out.height; ++y) {
        float* planes[3];
        work.writer.begin(y, 0, out.width, planes);
        const AlignRow row = {work.along_x.data(), work.along_y.data(), static_cast<float>(unit * (xy * y + x0)),
                        static_cast<float>(unit * (yy * y + y0)), out.width};
        float* const samples[3] = {planes[red_first ? 2 : 0], planes[1], planes[red_first ? 0 : 2]};
        loops.align_row(source, row, affine, samples);
        if (crop != nullptr)
            for (size_t x = 0; x < width; ++x, crop += 3)
                for (int k = 0; k < 3; ++k)
                    crop[k] = static_cast<uint8_t>(static_cast<int>((planes[k][x] + 12582912.0f) - 12582912.0f));
        if (!direct)
            for (int k = 0; k < 3; ++k)
                loops.scale_row(planes[k], work.writer.affine().factor[k], work.writer.affine().summand[k], width);
        work.writer.end();
    }
}

}  // namespace edgeface
