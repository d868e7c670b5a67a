// Sharpness, exposure and contrast of a crop, from exact integer sums.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels.hpp"
#include "primitives.hpp"
#include "tensor_writer.hpp"

namespace edgeface {
namespace {

double variance(int64_t sum, int64_t squares, double count) {
    const double mean = static_cast<double>(sum) / count;
    return std::max(static_cast<double>(squares) / count - mean * mean, 0.0);
}

}  // namespace

Quality quality(const uint8_t* crop, int height, int width, bool with_sharpness) {
    static thread_local std::vector<int16_t> memory;
    const Primitives& loops = primitives();
    const size_t columns = static_cast<size_t>(width), rows = static_cast<size_t>(height), stride = columns + 2;
    int16_t* grey = room_for(memory, (rows + 1) * stride);
    int16_t* edges = grey + rows * stride;
    int64_t sum = 0, squares = 0;
    for (size_t y = 0; y < rows; ++y) {
        int16_t* row = grey + y * stride + 1;
        loops.grey_row(crop + y * columns * 3, columns, row);
        row[-1] = row[columns > 1 ? 1 : 0];  // mirrored without repeating the edge, as BORDER_REFLECT_101
        row[columns] = row[columns > 1 ? columns - 2 : 0];
        loops.sums(row, columns, &sum, &squares);
    }
    const double count = static_cast<double>(rows * columns);
    Quality found = {};
    found.exposure = static_cast<double>(sum) / count / 255;
    found.contrast = std::sqrt(variance(sum, squares, count)) / 255;
    if (!with_sharpness) return found;
    sum = squares = 0;
    const size_t last = rows - 1;
    for (size_t y = 0; y < rows; ++y) {
        const size_t above = y > 0 ? y - 1 : std::min<size_t>(1, last), below = y < last ? y + 1 : last > 0 ? last - 1 : 0;
        loops.laplacian_row(grey + above * stride + 1, grey + y * stride + 1, grey + below * stride + 1, columns, edges);
        loops.sums(edges, columns, &sum, &squares);
    }
    found.sharpness = variance(sum, squares, count);
    return found;
}

}  // namespace edgeface
