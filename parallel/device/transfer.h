// Copies between host memory and views of device memory, in order with the queue's other work.
#pragma once

#include <span>
#include <vector>

#include "parallel/device/queue.h"
#include "parallel/device/view.h"

namespace cadre::device {

// The host's memory may change as soon as this returns.
template <class T>
void upload(Queue& queue, std::span<const T> host, View<T, 1> view) {
  assert(int64_t(host.size()) <= view.size());
  if (!host.empty()) queue.upload(host.data(), view.data(), host.size_bytes());
}
template <class T>
void upload(Queue& queue, const std::vector<T>& host, View<T, 1> view) {
  upload(queue, std::span<const T>(host), view);
}

// The host's memory holds the copy after the queue's next wait(); it must live until then.
template <class T>
void download(Queue& queue, View<const T, 1> view, std::span<T> host) {
  assert(int64_t(host.size()) <= view.size());
  if (!host.empty()) queue.download(view.data(), host.data(), host.size_bytes());
}

template <class T, int N>
void zero(Queue& queue, View<T, N> view) {
  if (!view.empty()) queue.zero(view.data(), size_t(view.size()) * sizeof(T));
}

}  // namespace cadre::device
