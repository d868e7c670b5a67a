// Any frame, any stride, any place in any tensor.
#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Bytes bytes(data, size);
    const FuzzedFrame source(bytes);
    const int height = 1 + bytes.below(60), width = 1 + bytes.below(60);
    edgeface::Place place = {1 + bytes.below(height), 1 + bytes.below(width), 0, 0, static_cast<float>(bytes.below(256))};
    place.top = bytes.below(height - place.height + 1);
    place.left = bytes.below(width - place.width + 1);
    const edgeface::ElementType type = edgeface::ElementType(bytes.below(3));
    const edgeface::Colour colour = fuzzed_colour(bytes);
    const size_t out_bytes = static_cast<size_t>(height) * width * 3 * element_bytes(type);
    std::unique_ptr<uint8_t[]> out(new uint8_t[out_bytes]);
    const edgeface::Tensor tensor = {out.get(), height, width, type, bytes.bit()};
    same_on_all_tables(out.get(), out_bytes, [&] { edgeface::letterbox(source.frame, tensor, place, colour); });
    return 0;
}
