// Templates: normalisation, quantisation, and the exhaustive scan with the best k rows kept.
#include <algorithm>
#include <limits>
#include <vector>

#include "kernels.hpp"
#include "primitives.hpp"
#include "tensor_writer.hpp"

namespace edgeface {
namespace {

// Rows whose dot products are computed before they are compared: 32 KB of 128-d int8 templates, which stay in the
// first-level cache while the other probes have their turn.
constexpr size_t kBlock = 256;
// The best k of one probe, best first, equal ones by lower row: rows come in rising order, so an equal one goes behind.
template <typename Value>
struct Best {
    int64_t* indices;
    Value* values;
    size_t k;

    void offer(int64_t row, Value value) {
        size_t at = k - 1;
        for (; at > 0 && values[at - 1] < value; --at) {
            values[at] = values[at - 1];
            indices[at] = indices[at - 1];
        }
        values[at] = value;
        indices[at] = row;
    }
};

template <typename Element, typename Value>
void scan(const Element* templates, size_t rows, size_t columns, const Element* probes, size_t queries, size_t k,
          const uint8_t* mask, int64_t* indices, Value* values, Value nothing,
          void (*dot)(const Element*, size_t, size_t, const Element*, Value*),
          bool (*any_above)(const Value*, size_t, Value)) {
    static thread_local std::vector<Element> padded;
    const size_t room = columns + 64;  // primitives.hpp: zeros past the probe's end
    room_for(padded, queries * room);
    for (size_t q = 0; q < queries; ++q) {
        Element* probe = padded.data() + q * room;
        std::copy(probes + q * columns, probes + (q + 1) * columns, probe);
        std::fill(probe + columns, probe + room, Element(0));
    }
    std::fill(indices, indices + queries * k, int64_t{-1});
    std::fill(values, values + queries * k, nothing);
    Value dots[kBlock];
    for (size_t from = 0; from < rows; from += kBlock) {
        const size_t count = std::min(kBlock, rows - from);
        if (mask != nullptr && std::find_if(mask + from, mask + from + count, [](uint8_t m) { return m != 0; }) ==
                                   mask + from + count)
            continue;
        for (size_t q = 0; q < queries; ++q) {
            dot(templates + from * columns, count, columns, padded.data() + q * room, dots);
            Best<Value> best = {indices + q * k, values + q * k, k};
            // After the first blocks nearly always none is large enough.
            if (!any_above(dots, count, best.values[k - 1])) continue;
            for (size_t r = 0; r < count; ++r)
                if (dots[r] > best.values[k - 1] && (mask == nullptr || mask[from + r] != 0))
                    best.offer(static_cast<int64_t>(from + r), dots[r]);
        }
    }
}

}  // namespace

void l2_normalize(const float* x, size_t rows, size_t columns, float* out) {
    const Primitives& loops = primitives();
    for (size_t r = 0; r < rows; ++r) loops.normalize_row(x + r * columns, columns, out + r * columns);
}

void quantize_templates(const float* x, size_t count, float scale, int8_t* out) {
    primitives().quantize(x, count, scale, out);
}

void scan_int8(const int8_t* templates, size_t rows, size_t columns, const int8_t* probes, size_t queries, size_t k,
               const uint8_t* mask, int64_t* indices, int32_t* dots) {
    const Primitives& loops = primitives();
    scan(templates, rows, columns, probes, queries, k, mask, indices, dots, std::numeric_limits<int32_t>::min(),
         loops.dot_int8, loops.any_above_int32);
}

void scan_float32(const float* templates, size_t rows, size_t columns, const float* probes, size_t queries, size_t k,
                  const uint8_t* mask, int64_t* indices, float* dots) {
    const Primitives& loops = primitives();
    scan(templates, rows, columns, probes, queries, k, mask, indices, dots, -std::numeric_limits<float>::infinity(),
         loops.dot_float32, loops.any_above_float32);
}

uint64_t read_once(const uint8_t* data, size_t bytes) { return primitives().read_once(data, bytes); }

}  // namespace edgeface
