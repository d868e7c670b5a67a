// Reads golden.bin, the cases that make_golden.py wrote.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace golden {

struct Case {
    uint32_t kernel;
    std::vector<double> parameters;
    std::vector<std::vector<uint8_t>> arrays;

    template <typename T>
    const T* as(size_t i) const {
        return reinterpret_cast<const T*>(arrays.at(i).data());
    }
    int integer(size_t i) const { return static_cast<int>(parameters.at(i)); }
};

inline std::vector<Case> read(const std::string& path) {
    FILE* file = std::fopen(path.c_str(), "rb");
    if (!file) {
        std::fprintf(stderr, "%s: cannot be opened\n", path.c_str());
        std::exit(2);
    }
    const auto take = [&](void* to, size_t bytes) {
        if (std::fread(to, 1, bytes, file) != bytes) {
            std::fprintf(stderr, "%s: ends inside a case\n", path.c_str());
            std::exit(2);
        }
    };
    char magic[24];
    take(magic, sizeof magic);
    if (std::strncmp(magic, "edgeface golden 1\n", 18) != 0) {
        std::fprintf(stderr, "%s: not a file of golden cases\n", path.c_str());
        std::exit(2);
    }
    std::vector<Case> cases;
    uint32_t head[3];
    while (std::fread(head, 1, sizeof head, file) == sizeof head) {
        Case one{};
        one.kernel = head[0];
        for (uint32_t i = 0; i < head[1]; ++i) {
            uint32_t size[2];
            take(size, sizeof size);
            std::vector<uint8_t> bytes((size[0] + 7) & ~7u);
            if (!bytes.empty()) take(bytes.data(), bytes.size());
            bytes.resize(size[0]);
            bytes.shrink_to_fit();  // so that AddressSanitizer sees the end of the array
            if (i == 0) {
                one.parameters.resize(bytes.size() / sizeof(double));
                std::memcpy(one.parameters.data(), bytes.data(), bytes.size());
            } else {
                one.arrays.push_back(std::move(bytes));
            }
        }
        cases.push_back(std::move(one));
    }
    std::fclose(file);
    return cases;
}

}  // namespace golden
