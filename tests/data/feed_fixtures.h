// Corpora and mixers for the tests of planner, loader and feed.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/corpus.h"
#include "data/curriculum.h"
#include "data/mixer.h"
#include "data/planner.h"
#include "parallel/base/rng.h"

namespace cadre::data::testing {

inline const Curriculum kNone;  // documents in the shuffled order

// sizes[k] documents of domain k with 2 to max_length tokens. The token at position i of document d is d *
// 1000 + i, so that any batch tells which piece it came from; domains alternate in document order as far as
// they last.
inline std::unique_ptr<Corpus> numbered_corpus(std::vector<int> sizes, int max_length, uint64_t seed = 7) {
  const base::Philox random(seed);
  std::vector<std::string> names;
  std::vector<MemoryDocument> documents;
  for (size_t k = 0; k < sizes.size(); ++k) names.push_back("domain" + std::to_string(k));
  for (bool any = true; any;) {
    any = false;
    for (size_t k = 0; k < sizes.size(); ++k) {
      if (sizes[k]-- <= 0) continue;
      any = true;
      const auto d = static_cast<int32_t>(documents.size());
      MemoryDocument document{static_cast<int32_t>(k), {}, 10};
      const int length = 2 + static_cast<int>(random.bits(uint64_t(d)) % uint64_t(max_length - 1));
      for (int32_t i = 0; i < length; ++i) document.tokens.push_back(d * 1000 + i);
      documents.push_back(std::move(document));
    }
  }
  return make_memory_corpus(std::move(names), std::move(documents));
}

// A plan in words, to compare.
inline std::string words(const PlanSequence& s) {
  std::string out = fmt::format("[{}", s.domain);
  for (const PlanSegment& g : s.segments) out += fmt::format(" {}:{}+{}", g.document, g.begin, g.count);
  return out + "]";
}
inline std::string words(const BatchPlan& plan) {
  std::string out;
  for (const PlanSequence& s : plan.sequences) out += words(s);
  return out;
}

// A file that goes away with the test.
class TempFile {
 public:
  TempFile(const std::string& name, const std::string& text)
      : path_(std::filesystem::temp_directory_path() / fmt::format("cadre-{}-{}", getpid(), name)) {
    std::ofstream(path_) << text;
  }
  ~TempFile() { std::filesystem::remove(path_); }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

// Moves weight towards the domain with the larger loss: its weights depend on everything observed before.
class LearningMixer : public Mixer {
 public:
  explicit LearningMixer(int domains) : scores_(static_cast<size_t>(domains), 1.0) {}
  std::vector<double> weights(const Progress&) override {
    double sum = 0;
    for (const double s : scores_) sum += s;
    std::vector<double> out;
    for (const double s : scores_) out.push_back(s / sum);
    return out;
  }
  void observe(const Progress& progress, const DomainStats& stats) override {
    for (size_t k = 0; k < scores_.size(); ++k) {
      scores_[k] = 0.7 * scores_[k] + 0.3 * stats.loss_sum[k] * double(1 + (progress.step + k) % 3);
    }
  }
  nlohmann::json save() const override { return {{"scores", scores_}}; }
  void load(const nlohmann::json& state) override { scores_ = state.at("scores").get<std::vector<double>>(); }

 private:
  std::vector<double> scores_;
};

}  // namespace cadre::data::testing
