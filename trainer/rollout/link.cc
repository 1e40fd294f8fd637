#include "trainer/rollout/link.h"

#include <algorithm>

#include "parallel/base/errors.h"

namespace cadre::trainer {

using nlohmann::json;

std::string Orders::text() const {
  const json head = {{"version", version},   {"weights", weights}, {"collect", collect}, {"reset", reset},
                     {"starving", starving}, {"stop", stop},       {"state", state}};
  return head.dump() + "\n" + pack(groups);
}

Orders Orders::parse(const std::string& text) try {
  const size_t line = text.find('\n');
  require(line != std::string::npos, ExitCode::kComm, "the trainers' orders have no head");
  const json head = json::parse(text.substr(0, line));
  Orders o;
  o.version = head.at("version").get<uint32_t>();
  o.weights = head.at("weights").get<bool>();
  o.collect = head.at("collect").get<bool>();
  o.reset = head.at("reset").get<bool>();
  o.starving = head.at("starving").get<bool>();
  o.stop = head.at("stop").get<bool>();
  o.state = head.at("state");
  o.groups = unpack(text.substr(line + 1));
  return o;
} catch (const json::exception& error) {
  fail(ExitCode::kComm, "the trainers' orders cannot be read: {}", error.what());
}

void Bell::post() {
  request_ = all_.all_gather(&own_, 1, heard_.data(), counts_, places_, comm::Dtype::kByte, "rollout bell");
  posted_ = true;
}

void Bell::wait() {
  if (!posted_) post();
  request_.wait();
  posted_ = false;
}

void pass_values(comm::Communicator& all, const ModelValues& own, bool receives) {
  constexpr int64_t kChunk = int64_t(4) << 20;
  if (own.arrive) own.arrive();
  std::vector<float> values;
  const auto pass = [&](device::Group group, int root, bool mine) {
    const int64_t size = own.layout->group_size(group);
    for (int64_t begin = 0; begin < size; begin += kChunk) {
      values.resize(size_t(std::min(kChunk, size - begin)));
      if (all.rank() == root) own.store->get(*own.queue, group, begin, values);
      all.broadcast(values.data(), int64_t(values.size()), root, comm::Dtype::kFloat, "new weights").wait();
      if (receives && mine) own.store->set(*own.queue, group, begin, values);
    }
  };
  pass(device::Group::kDense, 0, true);
  // Expert rank e of the trainers is rank e of all.
  for (int e = 0; e < own.expert_ranks; ++e) pass(device::Group::kExpert, e, e == own.expert_rank);
}

}  // namespace cadre::trainer
