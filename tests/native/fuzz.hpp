// Takes numbers and exact-sized buffers off a fuzzer's bytes, so that AddressSanitizer guards both ends of each buffer.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels.hpp"
#include "primitives.hpp"

class Bytes {
public:
    Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

    int below(int limit) {
        uint16_t value = 0;
        take(&value, sizeof value);
        return value % limit;
    }
    float number() {  // any bit pattern: NaN, infinity, huge
        float value = 0;
        take(&value, sizeof value);
        return value;
    }
    bool bit() { return below(2) != 0; }
    // Repeats the bytes that are left, from the start.
    template <typename T>
    std::unique_ptr<T[]> array(size_t count) {
        std::unique_ptr<T[]> filled(new T[count]);
        uint8_t* to = reinterpret_cast<uint8_t*>(filled.get());
        for (size_t i = 0; i < count * sizeof(T); ++i) to[i] = size_ ? data_[(at_ + i) % size_] : static_cast<uint8_t>(i * 37);
        return filled;
    }

private:
    void take(void* to, size_t bytes) {
        const size_t had = at_ < size_ ? (size_ - at_ < bytes ? size_ - at_ : bytes) : 0;
        std::memcpy(to, data_ + (had ? at_ : 0), had);
        at_ += bytes;
    }
    const uint8_t* data_;
    size_t size_, at_ = 0;
};

// Runs call() with the plainest table and with each other one; all must write the same bytes.
template <typename Call>
void same_on_all_tables(uint8_t* out, size_t bytes, Call call) {
    edgeface::use_primitives("scalar");
    call();
    const std::vector<uint8_t> want(out, out + bytes);
    for (const char* const* name = edgeface::available_primitives(); *name; ++name) {
        std::memset(out, 0x5a, bytes);
        edgeface::use_primitives(*name);
        call();
        if (bytes && std::memcmp(out, want.data(), bytes) != 0) std::abort();
    }
}

// A frame of any format at any stride, its last row as short as a caller's may be.
struct FuzzedFrame {
    std::unique_ptr<uint8_t[]> memory;
    edgeface::Frame frame;

    explicit FuzzedFrame(Bytes& bytes) {
        using edgeface::PixelFormat;
        const PixelFormat format = PixelFormat(bytes.below(7));
        const bool planar = format == PixelFormat::nv12 || format == PixelFormat::i420;
        const bool even = planar || format == PixelFormat::yuyv;
        int height = 1 + bytes.below(70), width = 1 + bytes.below(120);
        if (even) width += width % 2;
        if (planar) height += height % 2;
        const int channels = format == PixelFormat::bgra ? 4 : format == PixelFormat::yuyv ? 2 : format >= PixelFormat::gray ? 1 : 3;
        const int rows = planar ? height * 3 / 2 : height, row_bytes = width * channels;
        const ptrdiff_t stride = row_bytes + bytes.below(9);
        memory = bytes.array<uint8_t>(static_cast<size_t>(rows - 1) * stride + row_bytes);
        frame = {memory.get(), stride, height, width, format};
        if (bytes.bit()) {
            frame.data += (rows - 1) * stride;
            frame.stride = -stride;
        }
    }
};

inline edgeface::Colour fuzzed_colour(Bytes& bytes) {
    const double mean[3] = {bytes.below(256) / 1.0, 104, 117}, deviation[3] = {1 + bytes.below(1000) / 7.0, 58, 1e-6};
    return edgeface::make_colour(bytes.bit(), mean, deviation, 0.02, bytes.bit(), bytes.bit());
}

inline size_t element_bytes(edgeface::ElementType type) {
    return type == edgeface::ElementType::float32 ? 4 : type == edgeface::ElementType::float16 ? 2 : 1;
}
