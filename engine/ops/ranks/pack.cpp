#include "engine/ops/ranks/pack.h"

#include <algorithm>

#include "engine/ops/ranks/pack_kernels.h"

namespace glia {
namespace {

int64_t room_of(const Tensor& part, int64_t align) { return (part.numel() + align - 1) / align * align; }

template <class T> void pack_as(std::span<const Tensor> parts, int64_t align, const Tensor& all) {
  int64_t at = 0;
  T* to = all.data<T>();
  for (size_t first = 0; first < parts.size(); first += kMostPacked) {
    Packed<T> p{};
    int64_t longest = 0;
    for (const Tensor& part : parts.subspan(first, std::min<size_t>(kMostPacked, parts.size() - first))) {
      const bool whole = part.dtype() == DType::kInt32;
      const int64_t size = part.numel(), room = room_of(part, align);
      p.part[p.parts++] = {whole ? nullptr : part.data<T>(), whole ? part.data<int32_t>() : nullptr, size, room,
                           at};
      at += room, longest = std::max(longest, room);
    }
    on_device(
        all.context(), "pack",
        [&] {
          for (int i = 0; i < p.parts; ++i)
            for (int64_t j = 0; j < p.part[i].room; ++j) to[p.part[i].at + j] = packed_element<T>(p.part[i], j);
        },
        [&](auto& cuda) { cuda::pack(p, longest, to, cuda.stream); });
  }
}

}  // namespace

int64_t packed_size(std::span<const Tensor> parts, int64_t align) {
  int64_t size = 0;
  for (const Tensor& part : parts) size += room_of(part, align);
  return size;
}

void pack_into(const Tensor& all, std::span<const Tensor> parts, int64_t align) {
  CHECK(align >= 1 && all.shape() == Shape{packed_size(parts, align)},
        "pack: wants room for [{}] and an alignment of 1 or more, got {} and {}", packed_size(parts, align),
        all.shape(), align);
  for (const Tensor& part : parts)
    CHECK(part.dtype() == all.dtype() || part.dtype() == DType::kInt32, "pack: wants {} or int32, got {}",
          all.dtype(), part.dtype());
  if (all.dtype() == DType::kInt32) return pack_as<int32_t>(parts, align, all);
  dispatch_floating(all.dtype(), "pack",
                    [&](auto tag) { pack_as<typename decltype(tag)::type>(parts, align, all); });
}

Tensor pack(std::span<const Tensor> parts, DType dtype, int64_t align) {
  CHECK(!parts.empty(), "pack: wants a part");
  const Tensor all = empty(parts[0].context(), {packed_size(parts, align)}, dtype);
  pack_into(all, parts, align);
  return all;
}

std::vector<Tensor> unpack(const Tensor& all, std::span<const Tensor> parts, int64_t align) {
  std::vector<Tensor> places;
  int64_t at = 0;
  for (const Tensor& part : parts) {
    places.push_back(all.rows(at, at + part.numel()).reshape(part.shape()));
    at += room_of(part, align);
  }
  return places;
}

}  // namespace glia
