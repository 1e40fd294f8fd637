#include "trainer/rollout/rollout.h"

#include <cstring>

#include "parallel/base/errors.h"

namespace cadre::trainer {
namespace {

class Packer {
 public:
  template <class T>
  void put(const T& value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  template <class T>
  void put(const std::vector<T>& values) {
    put(uint64_t(values.size()));
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class Unpacker {
 public:
  explicit Unpacker(const std::string& bytes) : bytes_(bytes) {}
  bool done() const { return at_ == bytes_.size(); }
  template <class T>
  void get(T& value) {
    copy(&value, 1);
  }
  template <class T>
  void get(std::vector<T>& values) {
    uint64_t count = 0;
    get(count);
    require(count <= (bytes_.size() - at_) / sizeof(T), ExitCode::kCheckpoint,
            "buffered rollouts are damaged: {} elements where {} bytes are left", count, bytes_.size() - at_);
    values.resize(size_t(count));
    copy(values.data(), values.size());
  }

 private:
  template <class T>
  void copy(T* to, size_t count) {
    require(count * sizeof(T) <= bytes_.size() - at_, ExitCode::kCheckpoint,
            "buffered rollouts are damaged: they end too early");
    if (count > 0) std::memcpy(to, bytes_.data() + at_, count * sizeof(T));
    at_ += count * sizeof(T);
  }
  const std::string& bytes_;
  size_t at_ = 0;
};

// Every member in one fixed order.
template <class R, class Each>
void walk(R& r, const Each& each) {
  each(r.group), each(r.sample), each(r.document), each(r.domain), each(r.level), each(r.finish);
  each(r.prompt_length), each(r.tokens), each(r.logp), each(r.version), each(r.routing), each(r.reward);
  each(r.failed), each(r.advantage), each(r.masked), each(r.logp_old);
}

}  // namespace

const char* name_of(Finish finish) {
  return finish == Finish::kStop ? "stop" : finish == Finish::kLength ? "length" : "none";
}

std::string pack(const std::vector<Rollout>& rollouts) {
  Packer packer;
  for (const Rollout& r : rollouts) walk(r, [&](const auto& member) { packer.put(member); });
  return packer.take();
}

std::vector<Rollout> unpack(const std::string& bytes) {
  Unpacker unpacker(bytes);
  std::vector<Rollout> rollouts;
  while (!unpacker.done()) {
    Rollout& r = rollouts.emplace_back();
    walk(r, [&](auto& member) { unpacker.get(member); });
    const bool fits = r.prompt_length >= 0 && r.response_length() >= 0 &&
                      int64_t(r.logp.size()) == r.response_length() && r.version.size() == r.logp.size();
    require(fits, ExitCode::kCheckpoint, "buffered rollouts are damaged: lengths disagree");
  }
  return rollouts;
}

}  // namespace cadre::trainer
