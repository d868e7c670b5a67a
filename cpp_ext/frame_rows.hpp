// Rows of a frame as three or four interleaved bytes a pixel, whatever its format.
#pragma once

#include <vector>

#include "kernels.hpp"

namespace edgeface {

// Whether the pixels of a format lie interleaved in memory already, so that its rows are used where they are.
inline bool interleaved(PixelFormat format) { return format <= PixelFormat::bgra; }

inline int row_channels(PixelFormat format) { return format <= PixelFormat::rgb ? 3 : 4; }

class RowConverter {
public:
    // Pixels [left, left + width) of row y of a frame that is not interleaved, as blue, green, red, 0.
    // For camera formats left and width are even.
    void convert(const Frame& frame, const CameraColour& colour, int y, int left, int width, uint8_t* bgrx);

private:
    std::vector<uint8_t> y_, pairs_, u_, v_;
};

}  // namespace edgeface
