// Resize into a tensor: for each target row, the source rows it covers are combined into one row of 16-bit samples
// (which stays in the first-level cache), and that row's columns into the tensor. The picture is read once.
#include <algorithm>

#include "kernels.hpp"
#include "primitives.hpp"
#include "tensor_writer.hpp"

namespace edgeface {
namespace {

// The taps of every target pixel along one axis; the arithmetic is that of taps() in _kernels_py_pixels.py.
struct Axis {
    int source = 0, target = 0, count = 0;
    std::vector<int32_t> first;
    std::vector<int16_t> weights;  // (target, count)

    void set(int new_source, int new_target) {
        if (source == new_source && target == new_target) return;
        source = 0;  // stays so if an allocation below throws
        const int64_t s = new_source, t = new_target, one = 1 << kWeightBits;
        const bool area = s > 2 * t;
        count = 2;
        if (area)
            for (int64_t x = 0; x < t; ++x)
                count = std::max(count, static_cast<int>(((x + 1) * s + t - 1) / t - x * s / t));
        room_for(first, new_target);
        room_for(weights, static_cast<size_t>(new_target) * count);
        for (int64_t x = 0; x < t; ++x) {
            int16_t* weight = weights.data() + x * count;
            if (area) {
                first[x] = static_cast<int32_t>(x * s / t);
                int64_t before = 0;
                for (int i = 0; i < count; ++i) {
                    int64_t covered = (first[x] + i + 1) * t - x * s;
                    covered = covered > s ? s : covered;
                    const int64_t upto = (covered * one + s / 2) / s;
                    weight[i] = static_cast<int16_t>(upto - before);
                    before = upto;
                }
            } else {
                const int64_t numerator = (2 * x + 1) * s - t;
                int64_t index = numerator >= 0 ? numerator / (2 * t) : -1;  // never below -1 source pixel
                int64_t second = ((numerator - index * 2 * t) * one + t) / (2 * t);
                if (index < 0 || index >= s - 1) second = 0;  // the picture's edge repeats outwards
                first[x] = static_cast<int32_t>(index < 0 ? 0 : index > s - 1 ? s - 1 : index);
                weight[0] = static_cast<int16_t>(one - second);
                weight[1] = static_cast<int16_t>(second);
            }
        }
        source = new_source;
        target = new_target;
    }
};

struct Workspace {
    Axis x, y;
    std::vector<int32_t> offsets;
    std::vector<uint32_t> pairs;
    std::vector<const uint8_t*> rows;
    std::vector<int16_t> chroma_weights;
    std::vector<int16_t> samples[4];  // the combined row, its chroma rows, and the row widened to four channels
    TensorWriter writer;
};

Workspace& workspace() {
    static thread_local Workspace mine;
    return mine;
}

Columns columns_of(Workspace& work, int channels) {
    const Axis& axis = work.x;
    const int padded = (axis.target + 7) & ~7, pairs = (axis.count + 1) / 2;
    room_for(work.offsets, padded);
    room_for(work.pairs, static_cast<size_t>(pairs) * padded);
    for (int x = 0; x < axis.target; ++x) {
        work.offsets[x] = axis.first[x] * channels;
        for (int p = 0; p < pairs; ++p) {
            const int16_t* weight = axis.weights.data() + static_cast<size_t>(x) * axis.count + 2 * p;
            const uint32_t second = 2 * p + 1 < axis.count ? static_cast<uint32_t>(weight[1]) : 0;
            work.pairs[static_cast<size_t>(p) * padded + x] = static_cast<uint32_t>(weight[0]) | second << 16;
        }
    }
    return {axis.target, pairs, work.offsets.data(), work.pairs.data()};
}

// Combines source rows into work.samples[slot]; row_at(i) is the start of row i.
template <typename RowAt>
int16_t* combine(Workspace& work, int slot, int first, const int16_t* weights, int taps, size_t count, RowAt row_at) {
    while (taps > 1 && weights[taps - 1] == 0) --taps;  // they may lie past the last row
    for (int t = 0; t < taps; ++t) work.rows[t] = row_at(first + t);
    primitives().combine_rows(work.rows.data(), weights, taps, work.samples[slot].data(), count);
    return work.samples[slot].data();
}

// One target row of the frame as 3 or 4 channels of 16-bit samples.
const int16_t* combined_row(const Frame& frame, Workspace& work, int y) {
    const Primitives& loops = primitives();
    const int first = work.y.first[y], taps = work.y.count;
    const int16_t* weights = work.y.weights.data() + static_cast<size_t>(y) * taps;
    const size_t width = static_cast<size_t>(frame.width);
    const auto luma_row = [&](int row) { return frame.data + row * frame.stride; };
    int16_t* wide = work.samples[3].data();
    switch (frame.format) {
        case PixelFormat::bgr:
        case PixelFormat::rgb:
            return combine(work, 0, first, weights, taps, width * 3, luma_row);
        case PixelFormat::bgra:
            return combine(work, 0, first, weights, taps, width * 4, luma_row);
        case PixelFormat::gray:
            loops.widen_gray(combine(work, 0, first, weights, taps, width, luma_row), width, wide);
            return wide;
        case PixelFormat::yuyv:
            loops.widen_yuyv(combine(work, 0, first, weights, taps, width * 2, luma_row), width, wide);
            return wide;
        case PixelFormat::nv12:
        case PixelFormat::i420:
            break;
    }
    const int16_t* luma = combine(work, 0, first, weights, taps, width, luma_row);
    // A chroma row counts for both luma rows that it covers.
    const int first_chroma = first / 2, chroma_taps = (first + taps - 1) / 2 - first_chroma + 1;
    int16_t* merged = work.chroma_weights.data();
    std::fill(merged, merged + chroma_taps, static_cast<int16_t>(0));
    for (int t = 0; t < taps; ++t) {
        int16_t& sum = merged[(first + t) / 2 - first_chroma];
        sum = static_cast<int16_t>(sum + weights[t]);
    }
    if (frame.format == PixelFormat::nv12) {
        const auto chroma_row = [&](int row) { return frame.data + (frame.height + row) * frame.stride; };
        loops.widen_nv12(luma, combine(work, 1, first_chroma, merged, chroma_taps, width, chroma_row), width, wide);
        return wide;
    }
    // I420: half-width rows, two of them in each row of the frame's array; V follows U.
    const auto half_row = [&](int row) {
        return frame.data + (frame.height + row / 2) * frame.stride + (row % 2) * (frame.width / 2);
    };
    const auto v_row = [&](int row) { return half_row(row + frame.height / 2); };
    const int16_t* u = combine(work, 1, first_chroma, merged, chroma_taps, width / 2, half_row);
    const int16_t* v = combine(work, 2, first_chroma, merged, chroma_taps, width / 2, v_row);
    loops.widen_i420(luma, u, v, width, wide);
    return wide;
}

}  // namespace

void letterbox(const Frame& frame, const Tensor& out, const Place& place, const Colour& colour) {
    const Primitives& loops = primitives();
    Workspace& work = workspace();
    work.y.set(frame.height, place.height);
    work.x.set(frame.width, place.width);
    const bool packed = frame.format == PixelFormat::bgr || frame.format == PixelFormat::rgb;
    const bool yuv = frame.format >= PixelFormat::nv12;
    const int channels = packed ? 3 : 4;
    const Columns columns = columns_of(work, channels);
    room_for(work.rows, work.y.count + 1);
    room_for(work.chroma_weights, work.y.count + 1);
    // Vector loads read up to two pairs past the last tap; what lies there counts with weight 0.
    const size_t slack = static_cast<size_t>(columns.pairs) * 2 * channels + 32;
    for (auto& row : work.samples) room_for(row, static_cast<size_t>(frame.width) * 4 + slack);

    work.writer.open(out, colour);
    work.writer.fill_around(place);
    constexpr float unit = 1.0f / (1 << (kWeightBits + kRowBits));
    Affine affine{};
    for (int c = 0; c < 3; ++c) {
        affine.factor[c] = yuv ? unit : work.writer.affine().factor[c] * unit;
        affine.summand[c] = yuv ? 0.0f : work.writer.affine().summand[c];
    }
    for (int y = 0; y < place.height; ++y) {
        float* planes[3];
        work.writer.begin(place.top + y, place.left, place.width, planes);
        const int16_t* row = combined_row(frame, work, y);
        if (frame.format == PixelFormat::rgb) {  // the row's first channel is red
            const Affine turned = {{affine.factor[2], affine.factor[1], affine.factor[0]},
                                   {affine.summand[2], affine.summand[1], affine.summand[0]}};
            float* const red_first[3] = {planes[2], planes[1], planes[0]};
            loops.combine_columns(row, channels, columns, turned, red_first);
        } else {
            loops.combine_columns(row, channels, columns, affine, planes);
        }
        if (yuv) loops.yuv_to_bgr(colour.yuv, work.writer.affine(), planes, static_cast<size_t>(place.width));
        work.writer.end();
    }
}

}  // namespace edgeface
