# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The int8 graph of cpp_ext/hnsw/graph.hpp for Python. Built only where hnswlib's headers are found."""

from libc.stdint cimport int8_t, int64_t
from libcpp.string cimport string


cdef extern from "graph.hpp" namespace "edgeface" nogil:
    cdef cppclass Graph:
        Graph(size_t, size_t, size_t) except +
        void set_rows(int8_t*, size_t) except +
        void add(size_t, size_t) except +
        void remove(size_t) except +
        size_t search(const int8_t*, size_t, size_t, int64_t*) except +
        size_t size() except +
        void save(const string&) except +
        void load(const string&) except +


cdef class Int8Graph:
    """See graph.hpp. Every call is safe from several threads and lets other Python threads run."""

    cdef Graph* _graph
    cdef object _rows  # keeps the memory alive that the graph points into
    cdef size_t _dimension

    def __cinit__(self, size_t dimension, size_t links, size_t ef_construction):
        self._dimension = dimension
        self._graph = new Graph(dimension, links, ef_construction)

    def __dealloc__(self):
        del self._graph

    def __len__(self):
        return self._graph.size()

    def set_rows(self, int8_t[:, ::1] rows not None):
        if <size_t>rows.shape[1] != self._dimension:
            raise ValueError("rows of another length")
        cdef int8_t* data = &rows[0, 0] if rows.shape[0] else NULL
        cdef size_t count = rows.shape[0]
        with nogil:
            self._graph.set_rows(data, count)
        self._rows = rows

    def add(self, size_t first, size_t last):
        with nogil:
            self._graph.add(first, last)

    def remove(self, size_t row):
        with nogil:
            self._graph.remove(row)

    def search(self, const int8_t[::1] query not None, size_t ef, int64_t[::1] found not None):
        """IN query (d,), OUT found (k,): rows, best first. Returns how many there are."""
        if <size_t>query.shape[0] != self._dimension or found.shape[0] == 0:
            raise ValueError("a query of another length, or no room for results")
        cdef size_t k = found.shape[0], count
        with nogil:
            count = self._graph.search(&query[0], k, ef, &found[0])
        return count

    def save(self, str path):
        cdef string where = path.encode()
        with nogil:
            self._graph.save(where)

    def load(self, str path):
        cdef string where = path.encode()
        with nogil:
            self._graph.load(where)
