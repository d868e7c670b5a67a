// A navigable small world graph (Malkov and Yashunin, 2018; hnswlib) over int8 rows that lie elsewhere.
//
// hnswlib keeps a copy of every vector inside the graph. Here the graph holds row numbers only and the distance looks
// the row up in the caller's array, which the exact scan uses too: half the memory, and a saved graph holds no
// templates. Rows are numbered from 0 in the order of their insertion.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace edgeface {

// Inner product of two int8 rows on this processor's widest instructions.
int32_t dot_rows(const int8_t* a, const int8_t* b, size_t n);

class Graph {
public:
    Graph(size_t dimension, size_t links, size_t ef_construction);
    ~Graph();
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    // The rows, which must outlive the graph or the next call. They are read, and written by `remove`.
    void set_rows(int8_t* rows, size_t count);
    // Insert rows first to last - 1, the next ones in order.
    void add(size_t first, size_t last);
    // Never find this row again; its place in the graph is kept, its components are replaced by its neighbours' mean.
    // Also for a row that was removed before and whose components are not known any more.
    void remove(size_t row);
    // The rows nearest to `query`, best first; returns how many (at most k).
    size_t search(const int8_t* query, size_t k, size_t ef, int64_t* found) const;
    size_t size() const;

    void save(const std::string& path) const;
    // Replaces the content. Throws and changes nothing where lengths, labels or links do not fit together.
    void load(const std::string& path);

private:
    struct Inside;
    std::unique_ptr<Inside> inside_;
};

}  // namespace edgeface
