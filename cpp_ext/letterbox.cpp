// Resize into a tensor: for each target row, the source rows it covers are combined into one row of 16-bit samples
// (which stays in the first-level cache), and that row's columns into the tensor. The picture is read once.
#include <algorithm>

#include "kernels.hpp"
#include "frame_rows.hpp"
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
    std::vector<uint8_t> converted;       // one row for each tap: of frames that are not interleaved
    std::vector<int32_t> converted_rows;  // which row of the frame each of them is; -1 for none
    std::vector<int16_t> samples;         // the combined row
    RowConverter converter;
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

// One target row of the frame as 3 or 4 channels of 16-bit samples.
const int16_t* combined_row(const Frame& frame, const CameraColour& camera, Workspace& work, int y) {
    const int first = work.y.first[y];
    const int16_t* weights = work.y.weights.data() + static_cast<size_t>(y) * work.y.count;
    const size_t row_bytes = static_cast<size_t>(frame.width) * row_channels(frame.format);
    int taps = work.y.count;
    while (taps > 1 && weights[taps - 1] == 0) --taps;  // they may lie past the last row
    for (int t = 0; t < taps; ++t) {
        const int row = first + t, slot = row % work.y.count;
        if (interleaved(frame.format)) {
            work.rows[t] = frame.data + row * frame.stride;
            continue;
        }
        uint8_t* bgrx = work.converted.data() + slot * row_bytes;
        if (work.converted_rows[slot] != row) work.converter.convert(frame, camera, row, 0, frame.width, bgrx);
        work.converted_rows[slot] = row;
        work.rows[t] = bgrx;
    }
    primitives().combine_rows(work.rows.data(), weights, taps, work.samples.data(), row_bytes);
    return work.samples.data();
}

}  // namespace

void letterbox(const Frame& frame, const Tensor& out, const Place& place, const Colour& colour) {
    const Primitives& loops = primitives();
    Workspace& work = workspace();
    work.y.set(frame.height, place.height);
    work.x.set(frame.width, place.width);
    const int channels = row_channels(frame.format);
    const Columns columns = columns_of(work, channels);
    room_for(work.rows, work.y.count);
    // Vector loads read up to two pairs past the last tap; what lies there counts with weight 0.
    const size_t slack = static_cast<size_t>(columns.pairs) * 2 * channels + 32;
    room_for(work.samples, static_cast<size_t>(frame.width) * channels + slack);
    if (!interleaved(frame.format)) {
        room_for(work.converted, static_cast<size_t>(frame.width) * channels * work.y.count);
        std::fill_n(room_for(work.converted_rows, work.y.count), work.y.count, -1);
    }

    work.writer.open(out, colour);
    work.writer.fill_around(place);
    constexpr float unit = 1.0f / (1 << (kWeightBits + kRowBits));
    Affine affine = work.writer.affine();
    for (float& factor : affine.factor) factor *= unit;
    for (int y = 0; y < place.height; ++y) {
        float* planes[3];
        work.writer.begin(place.top + y, place.left, place.width, planes);
        const int16_t* row = combined_row(frame, colour.camera, work, y);
        if (frame.format == PixelFormat::rgb) {  // the row's first channel is red
            const Affine turned = {{affine.factor[2], affine.factor[1], affine.factor[0]},
                                   {affine.summand[2], affine.summand[1], affine.summand[0]}};
            float* const red_first[3] = {planes[2], planes[1], planes[0]};
            loops.combine_columns(row, channels, columns, turned, red_first);
        } else {
            loops.combine_columns(row, channels, columns, affine, planes);
        }
        work.writer.end();
    }
}

}  // namespace edgeface
