// Generation of many sequences at once on one rank: continuous batching over pages of keys and values. A step is one pass
// of the model in which every running sequence goes on by one token, and new prompts are fed in pieces as far as the rows
// of a pass allow. Samples of one prompt are fed once; they share its full pages and copy the last, partial one.
//
// What is drawn is a function of (seed, group, sample, place in the response) and the logits, so that neither the
// order of requests nor the number of ranks takes part.
//
// An engine that runs ahead starts a pass before it knows what the one before drew: drawn tokens go from one to the next
// on the device, and the host prepares a pass while the device works on another. A sequence that turns out to have ended
// was then fed once too often: what comes of it is thrown away, and prompts that wait get its place a pass later.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "parallel/comm/communicator.h"
#include "trainer/model/network.h"
#include "trainer/rollout/page_pool.h"
#include "trainer/rollout/rollout.h"

namespace cadre::trainer {

struct EngineConfig {
  int64_t max_sequences = 64;  // at once
  int64_t page_size = 16;      // tokens
  int64_t cache_tokens = 0;    // of all pages; 0: enough for max_sequences of max_length
  int64_t max_length = 0;      // prompt and response
  int64_t max_new_tokens = 64;
  int64_t max_rows = 0;  // of a pass: what the model was made for (sequences x length)
  device::SampleShape shape;
  uint64_t seed = 1;
  int32_t eos = 0;
  // Whether a response ends here; asked after each token. May be empty.
  std::function<bool(std::span<const int32_t>)> stops = {};
  bool routing = false;  // record the experts of every token
  // Never with `routing` or where several ranks hold the experts. Unset: where the device works alone.
  std::optional<bool> run_ahead = {};
};

class Engine {
 public:
  // The model is borrowed, as is its expert group. Throws Error(kUsage) where the cache holds no sequence of max_length.
  Engine(Network<float>& model, comm::Communicator& expert, const EngineConfig& config);

  // Samples with equal tokens, which are fed once: those of one prompt, or one that goes on where it was interrupted.
  // Throws Error(kData) for a prompt that leaves no room for a response.
  void add(std::vector<Rollout> samples);
  // Starts one pass, and takes in its tokens, or those of the pass before if it runs ahead. False, and neither, when no
  // rank of the expert group has work. Collective over that group.
  bool step();
  // Takes in the tokens of a pass that step() left under way; false when there is none.
  bool pause();
  std::vector<Rollout> take_finished() { return std::exchange(finished_, {}); }
  // Everything that is not finished, to be added again: with other weights the keys and values of old ones are wrong.
  // Pauses, which may finish some.
  std::vector<Rollout> interrupt();
  void set_version(uint32_t version) { version_ = version; }
  void set_shape(const device::SampleShape& shape) { config_.shape = shape; }

  int64_t unfinished() const { return running_ + waiting_samples(); }
  int64_t rows_fed() const { return rows_fed_; }  // tokens through the model so far
  int64_t passes() const { return passes_; }
  const PagePool& pool() const { return pool_; }

 private:
  static constexpr int32_t kUnknown = -1;  // a token that the host has not seen
  // Samples with equal tokens, of which the first `cached` are in the pages. More than one only until all are fed.
  struct Active {
    std::vector<Rollout> samples;
    std::vector<int32_t> pages;
    int64_t cached = 0;
    int64_t fed = 0;  // rows in this pass
    // The first sample's draw in this pass; and in the pass under way, when the last of its tokens is kUnknown. -1: none.
    int32_t draw = -1, awaited = -1;
    int64_t length() const { return int64_t(samples.front().tokens.size()); }
  };
  int64_t waiting_samples() const;
  int64_t longest(const Active& a) const;        // tokens that its sequences may come to
  int64_t pages_to_come(const Active& a) const;  // in the worst case
  void admit();
  DecodeBatch plan();
  void feed(Active& active, int64_t owner, int64_t rows, DecodeBatch& batch);
  void record_routing(int64_t rows);
  // After a pass was started: samples after which it draws get a token, unknown as yet.
  void advance();
  // Each sample of it, with pages of its own where it will write.
  void split(Active active, std::vector<Active>& next);
  // Puts the tokens of the pass under way in their places.
  void settle();
  bool full(const Rollout& rollout) const;  // as long as it may be
  Finish finish(const Rollout& rollout) const;
  void drop(Active& active);

  Network<float>& model_;
  comm::Communicator& expert_;
  EngineConfig config_;
  bool ahead_;
  uint64_t draws_;  // what random numbers are made of, beside group, sample and place
  PagePool pool_;
  std::unique_ptr<Cache> cache_;
  std::deque<Active> waiting_;
  std::vector<Active> active_;
  std::vector<Rollout> finished_;
  int64_t running_ = 0;  // samples in active_
  int64_t rows_fed_ = 0, passes_ = 0;
  uint32_t version_ = 0;
  std::optional<uint32_t> under_way_;  // version of the pass that was started and not settled
};

}  // namespace cadre::trainer
