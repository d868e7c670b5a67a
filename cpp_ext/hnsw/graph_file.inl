// A graph's links in a file of hnswlib's own format: written in short steps, read only where everything fits together.
// Part of graph.cpp: hnswlib's header defines functions, so that one translation unit only may have it.
#include "graph_inside.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <mutex>
#include <stdexcept>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace edgeface {
namespace {

// A file's bytes, read once and in order.
class Bytes {
public:
    explicit Bytes(const std::string& path) {
        const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
        if (file < 0) throw std::runtime_error("cannot open the links");
        struct stat status = {};
        if (fstat(file, &status) == 0 && status.st_size > 0) {
            size_ = static_cast<size_t>(status.st_size);
            void* mapped = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
            if (mapped != MAP_FAILED) data_ = static_cast<const char*>(mapped);
        }
        close(file);
        if (data_ == nullptr) throw std::runtime_error("cannot read the links");
    }
    ~Bytes() { munmap(const_cast<char*>(data_), size_); }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;

    const char* take(size_t count) {
        if (count > size_ - at_) throw std::runtime_error("the links are cut short");
        at_ += count;
        return data_ + at_ - count;
    }
    template <typename T>
    T number() {
        T value;
        std::memcpy(&value, take(sizeof value), sizeof value);
        return value;
    }
    size_t left() const { return size_ - at_; }

private:
    const char* data_ = nullptr;
    size_t size_ = 0, at_ = 0;
};

void require(bool sound) {
    if (!sound) throw std::runtime_error("the links do not fit together");
}

// The links at `list`, at most `most` and each to an element that has them on this level too.
void check_list(const char* list, size_t most, size_t level, const std::vector<size_t>& levels) {
    uint16_t count;
    std::memcpy(&count, list, sizeof count);
    require(count <= most);
    for (size_t i = 0; i < count; ++i) {
        hnswlib::tableint link;
        std::memcpy(&link, list + sizeof(hnswlib::linklistsizeint) + i * sizeof link, sizeof link);
        require(link < levels.size() && levels[link] >= level);
    }
}

// Refuses a file that hnswlib would take and that would make a search read elsewhere: hnswlib's loadIndex compares only
// lengths. `model` is an empty graph of the settings that the file must have. Returns the number of elements.
size_t check_file(const std::string& path, const Hnsw& model, size_t rows) {
    Bytes bytes(path);
    require(bytes.number<size_t>() == model.offsetLevel0_);
    bytes.number<size_t>();  // room: not taken over
    const auto count = bytes.number<size_t>();
    require(count >= 1 && count <= rows && count <= bytes.left() / model.size_data_per_element_);
    require(bytes.number<size_t>() == model.size_data_per_element_);
    require(bytes.number<size_t>() == model.label_offset_);
    require(bytes.number<size_t>() == model.offsetData_);
    const auto highest = bytes.number<int>();
    const auto entrance = bytes.number<hnswlib::tableint>();
    require(bytes.number<size_t>() == model.maxM_);
    require(bytes.number<size_t>() == model.maxM0_);
    require(bytes.number<size_t>() == model.M_);
    const auto mult = bytes.number<double>();
    require(std::abs(mult - model.mult_) <= 1e-9);  // written so that NaN is refused
    require(bytes.number<size_t>() == model.ef_construction_);
    const char* lowest = bytes.take(count * model.size_data_per_element_);
    std::vector<size_t> levels(count);
    std::vector<const char*> lists(count);
    for (size_t i = 0; i < count; ++i) {
        const auto size = bytes.number<unsigned int>();
        require(size % model.size_links_per_element_ == 0);
        levels[i] = size / model.size_links_per_element_;
        lists[i] = bytes.take(size);
    }
    require(bytes.left() == 0 && highest >= 0 && entrance < count);
    require(levels[entrance] == static_cast<size_t>(highest));
    for (size_t i = 0; i < count; ++i) {
        const char* element = lowest + i * model.size_data_per_element_;
        uint64_t label;
        std::memcpy(&label, element + model.label_offset_, sizeof label);
        require(label == i && levels[i] <= static_cast<size_t>(highest));
        check_list(element, model.maxM0_, 0, levels);
        for (size_t level = 1; level <= levels[i]; ++level)
            check_list(lists[i] + (level - 1) * model.size_links_per_element_, model.maxM_, level, levels);
    }
    return count;
}

// Elements written under one hold of the lock: half a megabyte.
constexpr size_t kStep = 4096;

template <typename T>
void write(std::ofstream& file, const T& value) {
    file.write(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

// What hnswlib's saveIndex writes. Between two steps rows may be removed, which marks an element and changes no link;
// the mark may be in the file or not. Rows that are inserted meanwhile would change links.
void Graph::save(const std::string& path) const {
    std::ofstream file(path, std::ios::binary);
    size_t count = 0;
    const auto in_steps = [&](auto&& step) {
        for (size_t first = 0; first < count; first += kStep) {
            std::shared_lock lock(inside_->mutex);
            if (inside_->hnsw->cur_element_count != count)
                throw std::runtime_error("rows were inserted while the links were saved");
            step(*inside_->hnsw, first, std::min(first + kStep, count));
        }
    };
    {
        std::shared_lock lock(inside_->mutex);
        const Hnsw& hnsw = *inside_->hnsw;
        count = hnsw.cur_element_count;
        write(file, hnsw.offsetLevel0_), write(file, hnsw.max_elements_), write(file, count);
        write(file, hnsw.size_data_per_element_), write(file, hnsw.label_offset_), write(file, hnsw.offsetData_);
        write(file, hnsw.maxlevel_), write(file, hnsw.enterpoint_node_), write(file, hnsw.maxM_);
        write(file, hnsw.maxM0_), write(file, hnsw.M_), write(file, hnsw.mult_), write(file, hnsw.ef_construction_);
    }
    in_steps([&](const Hnsw& hnsw, size_t first, size_t last) {
        const size_t size = hnsw.size_data_per_element_;
        file.write(hnsw.data_level0_memory_ + first * size, static_cast<std::streamsize>((last - first) * size));
    });
    in_steps([&](const Hnsw& hnsw, size_t first, size_t last) {
        for (size_t i = first; i < last; ++i) {
            const int levels = hnsw.element_levels_[i];
            const auto size = static_cast<unsigned int>(levels > 0 ? hnsw.size_links_per_element_ * levels : 0);
            write(file, size);
            if (size) file.write(hnsw.linkLists_[i], size);
        }
    });
    file.close();
    if (!file) throw std::runtime_error("cannot write the links");
}

void Graph::load(const std::string& path) {
    std::unique_lock lock(inside_->mutex);
    const Hnsw& now = *inside_->hnsw;
    const size_t count = check_file(path, now, inside_->space.count);
    auto loaded = std::make_unique<Hnsw>(&inside_->space);
    loaded->loadIndex(path, &inside_->space, std::max(count, size_t{1024}));
    inside_->hnsw = std::move(loaded);
}

}  // namespace edgeface
