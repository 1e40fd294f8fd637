// One sampled sequence and what training has to know about how it was sampled.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace cadre::trainer {

enum class Finish : uint8_t { kNone, kStop, kLength };  // kStop: eos or a stop text; kLength: cut off
const char* name_of(Finish finish);

struct Rollout {
  uint64_t group = 0;    // of the samples of one prompt; unique in a run
  int32_t sample = 0;    // within the group
  int64_t document = 0;  // the prompt's number in its set
  int32_t domain = 0, level = 0;
  Finish finish = Finish::kNone;
  int64_t prompt_length = 0;
  std::vector<int32_t> tokens;  // prompt and response, eos included
  // By token of the response:
  std::vector<float> logp;        // of the distribution that it was drawn from, by the pass that drew it
  std::vector<uint32_t> version;  // of the weights: optimizer updates before it was drawn
  // Experts by token that was fed (all but the last), MoE layer and rank among the K; empty unless asked for.
  std::vector<uint8_t> routing;
  double reward = 0;
  bool failed = false;  // the reward could not judge it
  // Of training:
  double advantage = 0;
  bool masked = false;  // counts in its group, but no token is trained
  std::vector<float>
      logp_old;  // (response) by the trainer before the first update on it; empty unless asked for

  int64_t response_length() const { return int64_t(tokens.size()) - prompt_length; }
};

// As bytes, for ranks and checkpoints. unpack throws Error(kCheckpoint) where they are damaged.
std::string pack(const std::vector<Rollout>& rollouts);
std::vector<Rollout> unpack(const std::string& bytes);

}  // namespace cadre::trainer
