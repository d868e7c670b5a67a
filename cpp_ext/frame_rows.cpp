#include "frame_rows.hpp"

#include "primitives.hpp"
#include "tensor_writer.hpp"

namespace edgeface {

void RowConverter::convert(const Frame& frame, const CameraColour& colour, int y, int left, int width, uint8_t* bgrx) {
    const Primitives& loops = primitives();
    const size_t count = static_cast<size_t>(width), half = count / 2;
    const uint8_t* luma = frame.data + y * frame.stride + left;
    if (frame.format == PixelFormat::gray) return loops.grey_to_bgrx(luma, count, bgrx);
    if (frame.format == PixelFormat::i420) {
        // Half-width rows, two of them in each row of the frame's array; V follows U.
        const auto half_row = [&](int row) {
            return frame.data + (frame.height + row / 2) * frame.stride + (row % 2) * (frame.width / 2) + left / 2;
        };
        return loops.camera_row(luma, half_row(y / 2), half_row(y / 2 + frame.height / 2), colour, count, bgrx);
    }
    uint8_t* u = room_for(u_, half);
    uint8_t* v = room_for(v_, half);
    if (frame.format == PixelFormat::nv12) {
        loops.split_pairs(frame.data + (frame.height + y / 2) * frame.stride + left, half, u, v);
    } else {  // YUYV
        uint8_t* pairs = room_for(pairs_, count);
        uint8_t* apart = room_for(y_, count);
        loops.split_pairs(frame.data + y * frame.stride + 2 * left, count, apart, pairs);
        loops.split_pairs(pairs, half, u, v);
        luma = apart;
    }
    loops.camera_row(luma, u, v, colour, count, bgrx);
}

}  // namespace edgeface
