// Detector maps to faces: candidates above the threshold, the best of them, hard non-maximum suppression, and on
// request points that all cells of a face agree on.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels.hpp"
#include "primitives.hpp"
#include "tensor_writer.hpp"

namespace edgeface {
namespace {

struct Ranked {
    float score;
    uint32_t order;  // place in the maps; equal scores keep it
};

struct Workspace {
    std::vector<Detection> candidates, faces;
    std::vector<Ranked> ranking;
    std::vector<float> columns[5];  // left, top, right, bottom, area
    std::vector<int32_t> alive;
};

Workspace& workspace() {
    static thread_local Workspace mine;
    return mine;
}

bool all_finite(const Detection& face) {
    float sum = 0;  // 0 * infinity and 0 * NaN are NaN
    for (float value : face.box) sum += value * 0.0f;
    for (float value : face.landmarks) sum += value * 0.0f;
    return sum == 0.0f;
}

// OpenCV's FaceDetectorYN: offsets from the cell's corner in strides, sides as logarithms.
void place_yunet(const DetectorMap& map, size_t i, float x, float y, Detection& face) {
    const float* box = map.boxes + 4 * i;
    const float step = static_cast<float>(map.stride);
    const float cx = (x + box[0]) * step, cy = (y + box[1]) * step;
    // exp in double: its last bit differs between libraries, the rounded float in practice does not
    const float half_width = static_cast<float>(std::exp(static_cast<double>(box[2]))) * step * 0.5f;
    const float half_height = static_cast<float>(std::exp(static_cast<double>(box[3]))) * step * 0.5f;
    face.box[0] = cx - half_width;
    face.box[1] = cy - half_height;
    face.box[2] = cx + half_width;
    face.box[3] = cy + half_height;
    for (int k = 0; k < 10; ++k) face.landmarks[k] = (map.landmarks[10 * i + k] + (k % 2 ? y : x)) * step;
}

// SCRFD: distances from the cell's corner in strides.
void place_scrfd(const DetectorMap& map, size_t i, float x, float y, Detection& face) {
    const float* box = map.boxes + 4 * i;
    const float step = static_cast<float>(map.stride), cx = x * step, cy = y * step;
    face.box[0] = cx - box[0] * step;
    face.box[1] = cy - box[1] * step;
    face.box[2] = cx + box[2] * step;
    face.box[3] = cy + box[3] * step;
    for (int k = 0; k < 10; ++k) face.landmarks[k] = (k % 2 ? cy : cx) + map.landmarks[10 * i + k] * step;
}

void collect(const DetectorMap& map, float threshold, Workspace& work) {
    const size_t anchors = static_cast<size_t>(map.anchors_per_cell);
    const size_t count = static_cast<size_t>(map.rows) * map.columns * anchors;
    // Most anchors end at this comparison of products, a little below the square of the threshold.
    const float least = map.objectness ? threshold * threshold * 0.99999f : threshold;
    for (size_t i = 0; i < count; ++i) {
        float score = map.scores[i];
        if (map.objectness) {
            const float objectness = map.objectness[i];
            if (!(score * objectness >= least) && !(least <= 0)) continue;
            if (!std::isfinite(score) || !std::isfinite(objectness)) continue;
            score = std::sqrt(std::min(std::max(score, 0.0f), 1.0f) * std::min(std::max(objectness, 0.0f), 1.0f));
        }
        if (!(score >= threshold) || !std::isfinite(score)) continue;
        const size_t cell = i / anchors;
        const float x = static_cast<float>(cell % map.columns), y = static_cast<float>(cell / map.columns);
        Detection face;
        face.score = std::min(score, 1.0f);
        if (map.objectness)
            place_yunet(map, i, x, y, face);
        else
            place_scrfd(map, i, x, y, face);
        if (!all_finite(face)) continue;
        work.ranking.push_back({face.score, static_cast<uint32_t>(work.candidates.size())});
        work.candidates.push_back(face);
    }
}

// The points of a face as the mean over all cells that see it, each weighted by what its score has above the threshold:
// a cell that just fails to be one changes nothing.
void blend(const Workspace& work, size_t n, const float* box, const DetectorOptions& options, Detection& face) {
    double sums[10] = {}, total = 0;
    for (size_t j = 0; j < n; ++j) {
        const float width = std::min(box[2], work.columns[2][j]) - std::max(box[0], work.columns[0][j]);
        const float height = std::min(box[3], work.columns[3][j]) - std::max(box[1], work.columns[1][j]);
        const float common = std::max(width, 0.0f) * std::max(height, 0.0f);
        if (!(common >= options.blend_iou * ((box[4] + work.columns[4][j]) - common))) continue;
        const Detection& cell = work.candidates[work.ranking[j].order];
        const double weight = std::max(cell.score - options.score_threshold, 1e-6f);
        for (int k = 0; k < 10; ++k) sums[k] += weight * static_cast<double>(cell.landmarks[k]);
        total += weight;
    }
    if (total > 0)  // a box without area overlaps nothing, not even itself
        for (int k = 0; k < 10; ++k) face.landmarks[k] = static_cast<float>(sums[k] / total);
}

}  // namespace

size_t decode(const DetectorMap* maps, size_t count, const DetectorOptions& options, const Detection** faces) {
    Workspace& work = workspace();
    work.candidates.clear();
    work.ranking.clear();
    work.faces.clear();
    for (size_t m = 0; m < count; ++m) collect(maps[m], options.score_threshold, work);

    const auto better = [](const Ranked& a, const Ranked& b) {
        return a.score > b.score || (a.score == b.score && a.order < b.order);
    };
    const size_t n = std::min(options.top_k, work.ranking.size());
    std::partial_sort(work.ranking.begin(), work.ranking.begin() + static_cast<ptrdiff_t>(n), work.ranking.end(), better);

    const float* columns[5];
    for (int k = 0; k < 5; ++k) columns[k] = room_for(work.columns[k], n);
    room_for(work.alive, n);
    for (size_t j = 0; j < n; ++j) {
        const float* box = work.candidates[work.ranking[j].order].box;
        for (int k = 0; k < 4; ++k) work.columns[k][j] = box[k];
        work.columns[4][j] = std::max(box[2] - box[0], 0.0f) * std::max(box[3] - box[1], 0.0f);
        work.alive[j] = 1;
    }
    const Primitives& loops = primitives();
    for (size_t j = 0; j < n && work.faces.size() < options.max_faces; ++j) {
        if (!work.alive[j]) continue;
        work.faces.push_back(work.candidates[work.ranking[j].order]);
        const float box[5] = {columns[0][j], columns[1][j], columns[2][j], columns[3][j], columns[4][j]};
        if (options.blend_iou <= 1) blend(work, n, box, options, work.faces.back());
        loops.suppress(columns, j + 1, n, box, options.nms_iou, work.alive.data());
    }
    *faces = work.faces.data();
    return work.faces.size();
}

}  // namespace edgeface
