// Inside a graph: hnswlib's, over rows that lie elsewhere, and the lock. For graph.cpp and graph_file.inl only.
#pragma once

#include <cstring>
#include <memory>
#include <queue>
#include <shared_mutex>

#include "graph.hpp"
#include "hnswlib/hnswlib.h"

namespace edgeface {

// What hnswlib takes for a vector is the 8 bytes of a row number: the element's label inside the graph.
class RowSpace : public hnswlib::SpaceInterface<int> {
public:
    explicit RowSpace(size_t dimension) : dimension(dimension) {}
    size_t get_data_size() override { return 0; }  // so an element's data pointer is its label's
    hnswlib::DISTFUNC<int> get_dist_func() override { return distance; }
    void* get_dist_func_param() override { return this; }

    const int8_t* row(const void* element) const {
        uint64_t number;
        std::memcpy(&number, element, sizeof number);
        return rows + number * dimension;
    }

    static int distance(const void* a, const void* b, const void* space) {
        const RowSpace& self = *static_cast<const RowSpace*>(space);
        return -dot_rows(self.row(a), self.row(b), self.dimension);
    }

    const size_t dimension;
    int8_t* rows = nullptr;
    size_t count = 0;
};

constexpr size_t kMostLinks = 64;  // at most twice as many on the lowest level

using Hnsw = hnswlib::HierarchicalNSW<int>;

struct Graph::Inside {
    Inside(size_t dimension, size_t links, size_t ef_construction)
        : space(dimension), hnsw(std::make_unique<Hnsw>(&space, 1024, links, ef_construction)) {}

    // Searches share, changes exclude: hnswlib's searches are not safe beside its insertions.
    mutable std::shared_mutex mutex;
    RowSpace space;
    std::unique_ptr<Hnsw> hnsw;

    int distance(const int8_t* query, hnswlib::tableint element) const;
    hnswlib::tableint entrance(const int8_t* query) const;
    using Found = std::pair<int, int64_t>;  // negative product, row
    std::priority_queue<Found> nearest(const int8_t* query, size_t ef) const;
    void fill(size_t row);
};

}  // namespace edgeface
