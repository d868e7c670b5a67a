// Any bit patterns in a detector's maps: every face that comes out must be finite.
#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Bytes bytes(data, size);
    const int height = 1 + bytes.below(70), width = 1 + bytes.below(70), anchors = 1 + bytes.below(2);
    const bool yunet = bytes.bit();
    const edgeface::DetectorOptions options = {static_cast<float>(bytes.below(5)) / 4, static_cast<float>(bytes.below(5)) / 4,
                                               static_cast<size_t>(1 + bytes.below(50)), static_cast<size_t>(bytes.below(20)),
                                               static_cast<float>(bytes.below(6)) / 4};
    edgeface::DetectorMap maps[3];
    std::vector<std::unique_ptr<float[]>> held;
    const auto floats = [&](size_t count) {
        held.push_back(bytes.array<float>(count));
        bytes.below(2);  // the next array starts two bytes on
        return held.back().get();
    };
    for (int m = 0; m < 3; ++m) {
        const int stride = 8 << m, rows = (height + stride - 1) / stride, columns = (width + stride - 1) / stride;
        const size_t count = static_cast<size_t>(rows) * columns * anchors;
        maps[m] = {floats(count), yunet ? floats(count) : nullptr, floats(4 * count), floats(10 * count),
                   rows, columns, stride, anchors};
    }
    for (const char* const* name = edgeface::available_primitives(); *name; ++name) {
        edgeface::use_primitives(*name);
        const edgeface::Detection* faces = nullptr;
        const size_t found = edgeface::decode(maps, 3, options, &faces);
        if (found > options.max_faces || found > options.top_k) std::abort();
        for (size_t i = 0; i < found; ++i) {
            if (!(faces[i].score >= options.score_threshold && faces[i].score <= 1)) std::abort();
            if (i > 0 && faces[i].score > faces[i - 1].score) std::abort();
            for (float value : faces[i].box)
                if (!std::isfinite(value)) std::abort();
            for (float value : faces[i].landmarks)
                if (!std::isfinite(value)) std::abort();
        }
    }
    return 0;
}
