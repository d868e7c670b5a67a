// Similarity transforms, and crops sampled through them straight into a tensor.
#include <algorithm>
#include <cmath>

#include "kernels.hpp"
#include "primitives.hpp"
#include "tensor_writer.hpp"

namespace edgeface {
namespace {

struct Workspace {
    std::vector<float> along_x, along_y;
    TensorWriter writer;
};

Workspace& workspace() {
    static thread_local Workspace mine;
    return mine;
}

// The three numbers of one pixel of a grey or camera frame.
void read_pixel(const Frame& frame, int x, int y, int32_t out[3]) {
    const uint8_t* row = frame.data + y * frame.stride;
    const int half = frame.width / 2;
    switch (frame.format) {
        case PixelFormat::yuyv:
            out[0] = row[2 * x];
            out[1] = row[4 * (x / 2) + 1];
            out[2] = row[4 * (x / 2) + 3];
            return;
        case PixelFormat::nv12: {
            const uint8_t* chroma = frame.data + (frame.height + y / 2) * frame.stride + (x & ~1);
            out[0] = row[x];
            out[1] = chroma[0];
            out[2] = chroma[1];
            return;
        }
        case PixelFormat::i420: {
            const int u = y / 2, v = u + frame.height / 2;
            out[0] = row[x];
            out[1] = frame.data[(frame.height + u / 2) * frame.stride + (u % 2) * half + x / 2];
            out[2] = frame.data[(frame.height + v / 2) * frame.stride + (v % 2) * half + x / 2];
            return;
        }
        default:
            out[0] = out[1] = out[2] = row[x];
    }
}

// As align_row, for formats that are not three or four bytes a pixel. Values come out in grey levels.
void sample_row(const Frame& frame, const AlignRow& row, const int32_t black[3], float* const planes[3]) {
    constexpr int one = 1 << kPositionBits;
    constexpr float limit = 4194304.0f, unit = 1.0f / (1 << kWeightBits);
    for (int i = 0; i < row.count; ++i) {
        const auto fixed = [](float at) {
            at = at < -limit ? -limit : at > limit ? limit : at;
            return static_cast<int32_t>((at + 12582912.0f) - 12582912.0f);  // round_even of generic.inl
        };
        const int32_t px = fixed(row.along_x[i] + row.base_x), py = fixed(row.along_y[i] + row.base_y);
        const int32_t x = px >> kPositionBits, y = py >> kPositionBits, fx = px & (one - 1), fy = py & (one - 1);
        int32_t sums[3] = {0, 0, 0};
        for (int tap = 0; tap < 4; ++tap) {
            const int32_t sx = x + (tap & 1), sy = y + (tap >> 1);
            int32_t pixel[3] = {black[0], black[1], black[2]};
            if (sx >= 0 && sy >= 0 && sx < frame.width && sy < frame.height) read_pixel(frame, sx, sy, pixel);
            const int32_t weight = (tap & 1 ? fx : one - fx) * (tap >> 1 ? fy : one - fy);
            for (int c = 0; c < 3; ++c) sums[c] += weight * pixel[c];
        }
        for (int c = 0; c < 3; ++c) planes[c][i] = static_cast<float>(sums[c]) * unit;
    }
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
    const bool interleaved = frame.format <= PixelFormat::bgra, yuv = frame.format >= PixelFormat::nv12;
    const int32_t black[3] = {yuv && !colour.full_range ? 16 : 0, yuv ? 128 : 0, yuv ? 128 : 0};
    const Source source = {frame.data, frame.stride, frame.height, frame.width,
                           frame.format == PixelFormat::bgra ? 4 : 3};
    // Straight into the tensor's numbers where nothing needs the grey levels in between.
    const bool direct = interleaved && crop == nullptr;
    constexpr float weight_unit = 1.0f / (1 << kWeightBits);
    Affine affine{};
    for (int k = 0; k < 3; ++k) {
        const int from = red_first ? 2 - k : k;
        affine.factor[k] = direct ? work.writer.affine().factor[from] * weight_unit : weight_unit;
        affine.summand[k] = direct ? work.writer.affine().summand[from] : 0.0f;
    }
    constexpr Affine plain = {{1, 1, 1}, {0, 0, 0}};
    for (int y = 0; y < out.height; ++y) {
        float* planes[3];
        work.writer.begin(y, 0, out.width, planes);
        const AlignRow row = {work.along_x.data(), work.along_y.data(), static_cast<float>(unit * (xy * y + x0)),
                        static_cast<float>(unit * (yy * y + y0)), out.width};
        float* const samples[3] = {planes[red_first ? 2 : 0], planes[1], planes[red_first ? 0 : 2]};
        if (interleaved)
            loops.align_row(source, row, affine, samples);
        else
            sample_row(frame, row, black, samples);
        if (yuv) loops.yuv_to_bgr(colour.yuv, crop == nullptr ? work.writer.affine() : plain, planes, width);
        if (crop != nullptr)
            for (size_t x = 0; x < width; ++x, crop += 3)
                for (int k = 0; k < 3; ++k)
                    crop[k] = static_cast<uint8_t>(static_cast<int>((planes[k][x] + 12582912.0f) - 12582912.0f));
        if (!direct && !(yuv && crop == nullptr))
            for (int k = 0; k < 3; ++k)
                loops.scale_row(planes[k], work.writer.affine().factor[k], work.writer.affine().summand[k], width);
        work.writer.end();
    }
}

}  // namespace edgeface
