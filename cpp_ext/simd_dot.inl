// What the VNNI dot products share. Included inside their namespaces.

inline int32_t sum_of(const int8_t* values, size_t count) {
    int32_t sum = 0;
    for (size_t i = 0; i < count; ++i) sum += values[i];
    return sum;
}

inline int32_t plain_dot(const int8_t* a, const int8_t* b, size_t from, size_t count) {
    int32_t sum = 0;
    for (size_t i = from; i < count; ++i) sum += static_cast<int32_t>(a[i]) * b[i];
    return sum;
}
