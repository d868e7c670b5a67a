#include "tensor_writer.hpp"

#include <algorithm>

namespace edgeface {

void TensorWriter::open(const Tensor& tensor, const Colour& colour) {
    tensor_ = tensor;
    rgb_ = colour.rgb;
    in_place_ = tensor.type == ElementType::float32 && !tensor.channels_last;
    for (int c = 0; c < 3; ++c) {
        factor_[c] = colour.factor[c];
        summand_[c] = colour.summand[c];
        affine_.factor[rgb_ ? 2 - c : c] = colour.factor[c];
        affine_.summand[rgb_ ? 2 - c : c] = colour.summand[c];
    }
    room_for(rows_, static_cast<size_t>(tensor.width) * 6);
}

void TensorWriter::begin(int y, int left, int count, float* planes[3]) {
    y_ = y;
    left_ = left;
    count_ = count;
    for (int c = 0; c < 3; ++c) {
        float* channel = in_place_ ? static_cast<float*>(tensor_.data) +
                                         (static_cast<size_t>(c) * tensor_.height + y) * tensor_.width + left
                                   : rows_.data() + static_cast<size_t>(c) * tensor_.width;
        channels_[c] = channel;
        planes[rgb_ ? 2 - c : c] = channel;
    }
}

void TensorWriter::end() {
    if (in_place_) return;
    const Primitives& loops = primitives();
    const size_t count = static_cast<size_t>(count_);
    const auto store = [&](const float* from, size_t at, size_t n) {
        if (tensor_.type == ElementType::float16)
            loops.to_float16(from, static_cast<uint16_t*>(tensor_.data) + at, n);
        else
            loops.to_int8(from, static_cast<int8_t*>(tensor_.data) + at, n);
    };
    if (!tensor_.channels_last) {
        for (int c = 0; c < 3; ++c)
            store(channels_[c], (static_cast<size_t>(c) * tensor_.height + y_) * tensor_.width + left_, count);
        return;
    }
    const size_t at = (static_cast<size_t>(y_) * tensor_.width + left_) * 3;
    if (tensor_.type == ElementType::float32) {
        loops.interleave(channels_, static_cast<float*>(tensor_.data) + at, count);
        return;
    }
    float* mixed = rows_.data() + static_cast<size_t>(tensor_.width) * 3;
    loops.interleave(channels_, mixed, count);
    store(mixed, at, count * 3);
}

template <typename T>
void TensorWriter::fill(const Place& place, const T values[3]) {
    const size_t width = static_cast<size_t>(tensor_.width), height = static_cast<size_t>(tensor_.height);
    const size_t left = static_cast<size_t>(place.left), right = left + place.width;
    const size_t top = static_cast<size_t>(place.top), bottom = top + place.height;
    T* data = static_cast<T*>(tensor_.data);
    if (!tensor_.channels_last) {
        for (int c = 0; c < 3; ++c) {
            T* plane = data + c * height * width;
            std::fill(plane, plane + top * width, values[c]);
            for (size_t y = top; y < bottom; ++y) {
                std::fill(plane + y * width, plane + y * width + left, values[c]);
                std::fill(plane + y * width + right, plane + (y + 1) * width, values[c]);
            }
            std::fill(plane + bottom * width, plane + height * width, values[c]);
        }
        return;
    }
    const auto pixels = [&](size_t from, size_t to) {
        for (T* p = data + from * 3; p != data + to * 3; p += 3) p[0] = values[0], p[1] = values[1], p[2] = values[2];
    };
    pixels(0, top * width);
    for (size_t y = top; y < bottom; ++y) {
        pixels(y * width, y * width + left);
        pixels(y * width + right, (y + 1) * width);
    }
    pixels(bottom * width, height * width);
}

void TensorWriter::fill_around(const Place& place) {
    float values[3];
    for (int c = 0; c < 3; ++c) values[c] = place.pad * factor_[c] + summand_[c];
    if (tensor_.type == ElementType::float32) return fill(place, values);
    if (tensor_.type == ElementType::float16) {
        uint16_t halves[3];
        primitives().to_float16(values, halves, 3);
        return fill(place, halves);
    }
    int8_t bytes[3];
    primitives().to_int8(values, bytes, 3);
    fill(place, bytes);
}

}  // namespace edgeface
