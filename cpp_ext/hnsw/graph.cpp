#include "graph.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <mutex>
#include <queue>
#include <stdexcept>
#include <vector>

#include "graph_inside.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace edgeface {
namespace {

int32_t dot_plain(const int8_t* a, const int8_t* b, size_t n) {
    int32_t sum = 0;
    for (size_t i = 0; i < n; ++i) sum += int32_t{a[i]} * b[i];
    return sum;
}

using Dot = int32_t (*)(const int8_t*, const int8_t*, size_t);

#if defined(__x86_64__)
__attribute__((target("avx2"))) int32_t dot_avx2(const int8_t* a, const int8_t* b, size_t n) {
    __m256i sum = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i)));
        const __m256i y = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b + i)));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x, y));
    }
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1));
    return _mm_cvtsi128_si32(half) + dot_plain(a + i, b + i, n - i);
}

__attribute__((target("avx512f,avx512bw,avx512vnni"))) int32_t dot_vnni(const int8_t* a, const int8_t* b, size_t n) {
    __m512i sum = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m512i x = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + i)));
        const __m512i y = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + i)));
        sum = _mm512_dpwssd_epi32(sum, x, y);
    }
    return _mm512_reduce_add_epi32(sum) + dot_plain(a + i, b + i, n - i);
}

Dot best_dot() {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni"))
        return dot_vnni;
    return __builtin_cpu_supports("avx2") ? dot_avx2 : dot_plain;
}
#elif defined(__aarch64__)
int32_t dot_neon(const int8_t* a, const int8_t* b, size_t n) {
    int32x4_t sum = vdupq_n_s32(0);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const int8x16_t x = vld1q_s8(a + i), y = vld1q_s8(b + i);
        sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(x), vget_low_s8(y)));
        sum = vpadalq_s16(sum, vmull_high_s8(x, y));
    }
    return vaddvq_s32(sum) + dot_plain(a + i, b + i, n - i);
}

Dot best_dot() { return dot_neon; }
#else
Dot best_dot() { return dot_plain; }
#endif

const Dot chosen_dot = best_dot();

}  // namespace

int32_t dot_rows(const int8_t* a, const int8_t* b, size_t n) { return chosen_dot(a, b, n); }

int Graph::Inside::distance(const int8_t* query, hnswlib::tableint element) const {
    return -chosen_dot(query, space.rows + element * space.dimension, space.dimension);
}

// Walk down the upper levels, always to the neighbour nearest to the query.
hnswlib::tableint Graph::Inside::entrance(const int8_t* query) const {
    hnswlib::tableint at = hnsw->enterpoint_node_;
    int nearest = distance(query, at);
    for (int level = hnsw->maxlevel_; level > 0; --level) {
        for (bool moved = true; moved;) {
            moved = false;
            auto* list = hnsw->get_linklist(at, level);
            const auto* links = reinterpret_cast<const hnswlib::tableint*>(list + 1);
            const size_t count = hnsw->getListCount(list);
            for (size_t i = 0; i < count; ++i) {
                const int d = distance(query, links[i]);
                if (d < nearest) nearest = d, at = links[i], moved = true;
            }
        }
    }
    return at;
}

// hnswlib's search of the lowest level (algorithm 2 of the paper), written out because the rows lie outside the
// graph: the rows of all neighbours are asked for from memory before the first of them is looked at.
std::priority_queue<Graph::Inside::Found> Graph::Inside::nearest(const int8_t* query, size_t ef) const {
    std::priority_queue<Found> best;                                            // the farthest on top
    std::priority_queue<Found, std::vector<Found>, std::greater<Found>> ahead;  // the nearest on top
    hnswlib::VisitedList* visited = hnsw->visited_list_pool_->getFreeVisitedList();
    const hnswlib::tableint start = entrance(query);
    const int first = distance(query, start);
    visited->mass[start] = visited->curV;
    ahead.emplace(first, start);
    if (!hnsw->isMarkedDeleted(start)) best.emplace(first, start);
    hnswlib::tableint fresh[2 * kMostLinks];
    while (!ahead.empty()) {
        const Found next = ahead.top();
        if (best.size() >= ef && next.first > best.top().first) break;
        ahead.pop();
        auto* list = hnsw->get_linklist0(static_cast<hnswlib::tableint>(next.second));
        const auto* links = reinterpret_cast<const hnswlib::tableint*>(list + 1);
        const size_t count = hnsw->getListCount(list);
        size_t unseen = 0;
        for (size_t i = 0; i < count; ++i) {
            const hnswlib::tableint one = links[i];
            if (visited->mass[one] == visited->curV) continue;
            visited->mass[one] = visited->curV;
            const int8_t* row = space.rows + one * space.dimension;
            for (size_t byte = 0; byte < space.dimension; byte += 64) __builtin_prefetch(row + byte);
            fresh[unseen++] = one;
        }
        for (size_t i = 0; i < unseen; ++i) {
            const int d = distance(query, fresh[i]);
            if (best.size() >= ef && d >= best.top().first) continue;
            ahead.emplace(d, fresh[i]);
            __builtin_prefetch(hnsw->get_linklist0(fresh[i]));
            if (hnsw->isMarkedDeleted(fresh[i])) continue;
            best.emplace(d, fresh[i]);
            if (best.size() > ef) best.pop();
        }
    }
    hnsw->visited_list_pool_->releaseVisitedList(visited);
    return best;
}

// One thread inserts, so the element of a row has the row's number inside hnswlib too.
void Graph::Inside::fill(size_t row) {
    const auto element = static_cast<hnswlib::tableint>(row);
    auto* list = hnsw->get_linklist0(element);
    const size_t neighbours = hnsw->getListCount(list);
    const auto* links = reinterpret_cast<const hnswlib::tableint*>(list + 1);
    std::vector<int32_t> sum(space.dimension, 0);
    int32_t living = 0;
    for (size_t i = 0; i < neighbours; ++i) {
        if (hnsw->isMarkedDeleted(links[i])) continue;
        const int8_t* other = space.rows + links[i] * space.dimension;
        for (size_t c = 0; c < space.dimension; ++c) sum[c] += other[c];
        ++living;
    }
    int8_t* own = space.rows + row * space.dimension;
    for (size_t c = 0; c < space.dimension; ++c)
        own[c] = living == 0 ? 0 : static_cast<int8_t>(std::lround(static_cast<double>(sum[c]) / living));
}

Graph::Graph(size_t dimension, size_t links, size_t ef_construction)
    : inside_(std::make_unique<Inside>(dimension, links, ef_construction)) {
    if (links < 2 || links > kMostLinks) throw std::out_of_range("links: 2 to 64");
}

Graph::~Graph() = default;

void Graph::set_rows(int8_t* rows, size_t count) {
    std::unique_lock lock(inside_->mutex);
    inside_->space.rows = rows;
    inside_->space.count = count;
}

void Graph::add(size_t first, size_t last) {
    std::unique_lock lock(inside_->mutex);
    Hnsw& hnsw = *inside_->hnsw;
    if (first != hnsw.cur_element_count || last > inside_->space.count)
        throw std::out_of_range("rows are inserted once, in order");
    if (last > hnsw.max_elements_) hnsw.resizeIndex(std::max(last, hnsw.max_elements_ + hnsw.max_elements_ / 4));
    for (uint64_t row = first; row < last; ++row) hnsw.addPoint(&row, row);
}

void Graph::remove(size_t row) {
    std::unique_lock lock(inside_->mutex);
    if (row >= inside_->hnsw->cur_element_count) throw std::out_of_range("no such row in the graph");
    if (!inside_->hnsw->isMarkedDeleted(static_cast<hnswlib::tableint>(row))) inside_->hnsw->markDelete(row);
    inside_->fill(row);
}

size_t Graph::search(const int8_t* query, size_t k, size_t ef, int64_t* found) const {
    std::shared_lock lock(inside_->mutex);
    if (inside_->hnsw->cur_element_count == 0) return 0;
    auto best = inside_->nearest(query, std::max(ef, k));
    while (best.size() > k) best.pop();
    const size_t count = best.size();
    for (size_t i = count; i-- > 0; best.pop()) found[i] = best.top().second;
    return count;
}

size_t Graph::size() const {
    std::shared_lock lock(inside_->mutex);
    return inside_->hnsw->cur_element_count;
}

}  // namespace edgeface

#include "graph_file.inl"
