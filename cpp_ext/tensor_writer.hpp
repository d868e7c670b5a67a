// Writes rows of blue, green and red numbers into a tensor of any type, layout and channel order.
#pragma once

#include <vector>

#include "kernels.hpp"
#include "primitives.hpp"

namespace edgeface {

class TensorWriter {
public:
    // Takes the tensor that the next rows belong to. Memory is kept from tensor to tensor.
    void open(const Tensor& tensor, const Colour& colour);

    // Factor and summand in blue, green, red order.
    const Affine& affine() const { return affine_; }
    // Points planes at where the blue, green and red numbers of `count` pixels from (y, left) have to be put.
    void begin(int y, int left, int count, float* planes[3]);
    // Converts and stores what was put there; nothing to do for float32 planes, which lie in the tensor itself.
    void end();
    // Sets all rows and columns around the picture to a grey level.
    void fill_around(const Place& place);

private:
    template <typename T>
    void fill(const Place& place, const T values[3]);

    Tensor tensor_{};
    Affine affine_{};
    float summand_[3] = {};  // in the tensor's channel order, as the factors below
    float factor_[3] = {};
    bool rgb_ = false;
    bool in_place_ = false;
    int y_ = 0, left_ = 0, count_ = 0;
    const float* channels_[3] = {};  // in the tensor's channel order
    std::vector<float> rows_;        // three rows of planes and one interleaved
};

// Makes a vector at least this long, without ever giving memory back.
template <typename T>
T* room_for(std::vector<T>& memory, size_t count) {
    if (memory.size() < count) memory.resize(count);
    return memory.data();
}

}  // namespace edgeface
