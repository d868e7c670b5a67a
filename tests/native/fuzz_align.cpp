// Any frame and any landmarks: NaN, infinity, far outside, all in one place.
#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Bytes bytes(data, size);
    const FuzzedFrame source(bytes);
    const int height = 1 + bytes.below(40), width = 1 + bytes.below(40), points = 2 + bytes.below(5);
    std::vector<float> landmarks(2 * static_cast<size_t>(points));
    std::vector<double> goal(landmarks.size());
    const bool wild = bytes.below(4) == 0;
    for (size_t i = 0; i < landmarks.size(); ++i) {
        landmarks[i] = wild ? bytes.number() : static_cast<float>(bytes.below(4000)) / 16 - 60;
        goal[i] = wild ? bytes.number() : bytes.below(1000) / 25.0;
    }
    const edgeface::ElementType type = edgeface::ElementType(bytes.below(3));
    const edgeface::Colour colour = fuzzed_colour(bytes);
    const size_t pixels = static_cast<size_t>(height) * width, out_bytes = pixels * 3 * element_bytes(type);
    std::unique_ptr<uint8_t[]> out(new uint8_t[out_bytes]), crop(new uint8_t[pixels * 3]);
    const edgeface::Tensor tensor = {out.get(), height, width, type, bytes.bit()};
    uint8_t* const wanted = bytes.bit() ? crop.get() : nullptr;
    double matrix[6];
    edgeface::similarity_transforms(landmarks.data(), 1, points, goal.data(), matrix);
    same_on_all_tables(out.get(), out_bytes, [&] { edgeface::align(source.frame, matrix, tensor, colour, wanted); });
    edgeface::quality(crop.get(), height, width, true);  // whatever was in it
    return 0;
}
