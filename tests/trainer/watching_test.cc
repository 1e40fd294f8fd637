// What watching costs the training thread: heartbeats and flight recorder, metrics.jsonl, TensorBoard's events, at every step.
#include <ctime>
#include <numeric>

#include "parallel/base/blackbox.h"
#include "parallel/base/files.h"
#include "tests/trainer/run_fixture.h"
#include "trainer/report/event_file.h"
#include "trainer/run/evaluate.h"
#include "trainer/run/metrics.h"

namespace cadre::trainer {
namespace {

using testing::TempFolder;

// The thread's own CPU time, system calls included: other work on the machine does not count.
double cpu_us() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) * 1e6 + double(t.tv_nsec) * 1e-3;
}

// As much as a run of 8 domains with 24 experts in each of 4 layers says in its longest line.
nlohmann::json long_line(uint64_t step) {
  nlohmann::json line = {{"kind", "train"}, {"step", step}};
  for (int i = 0; i < 20; ++i) line["number_" + std::to_string(i)] = 1.0 / double(i + 3);
  for (const char* map : {"domain_loss", "domain_weight"})
    for (int k = 0; k < 8; ++k) line[map]["domain_" + std::to_string(k)] = 1.0 / double(k + 7);
  for (int layer = 0; layer < 4; ++layer)
    line["expert_load"][std::to_string(layer)] = std::vector<double>(24, 1234);
  return line;
}

class Watched {
 public:
  explicit Watched(const std::filesystem::path& folder)
      : box_(folder / base::box_name(0), 0, 1), metrics_(folder / "metrics.jsonl", 0) {
    metrics_.add_sink(std::make_unique<report::EventFile>(folder / "tensorboard", 1));
  }
  void step() {
    ++step_;
    for (int phase = 0; phase < 12; ++phase) {
      base::enter(base::Phase(phase % 6));
      for (int i = 0; i < 5; ++i)
        base::collective_done(base::collective_started("all_to_all", "tokens of layer 3", 1 << 20), {});
    }
    base::at_step(step_);
    metrics_.write(long_line(step_));
  }

 private:
  base::Blackbox box_;
  MetricsFile metrics_;
  uint64_t step_ = 0;
};

uint64_t beats(const std::filesystem::path& folder) {
  return base::read_box(folder / base::box_name(0)).value().beats;
}

// Else the launcher takes a rank that is at it for ten minutes for one that hangs.
TEST(Watching, ChecksOfFilesAndEvaluationsMove) {
  test::TempFolder folder;
  comm::run_threads(1, [&](comm::World& world) {
    const base::Blackbox box(folder.path() / base::box_name(0), 0, 1);
    CheckpointIndex index;
    for (int i = 0; i < 5; ++i) {
      const std::string name = fmt::format("rank-{:05}.bin", i);
      base::write_file_atomic(folder.path() / name, "values", ExitCode::kCheckpoint);
      index.files[name] = {6, base::sha256_text("values")};
    }
    uint64_t before = beats(folder.path());
    EXPECT_EQ(check_files(index, folder.path(), 0, 1), "");
    EXPECT_GE(beats(folder.path()), before + 5);

    RunConfig config = testing::tiny_run({});
    set_vocab(config, testing::kVocab);
    ModelState model(config, world, 1, false);
    const auto corpus = testing::tiny_corpus(2, 30);
    const EvalSet set = choose_documents(*corpus, 100);
    before = beats(folder.path());
    evaluate(model, *corpus, set, 1);
    EXPECT_GE(beats(folder.path()), before + set.documents.size());
  });
}

// Pairs of steps, without and with watching, each behind work that leaves nothing of ours in the caches.
TEST(Watching, CostsLessThanHalfAPercentOfAStepOf100Ms) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
  GTEST_SKIP() << "what it costs here says nothing about a release build";
#endif
  const TempFolder folder;
  Watched watched(folder.path());
  std::vector<float> memory(size_t(1) << 20, 1.0f);
  float sum = 0;
  const auto work = [&] { sum += std::accumulate(memory.begin(), memory.end(), 0.0f); };
  std::vector<double> costs;
  for (int pair = 0; pair < 151; ++pair) {
    const double begin = cpu_us();
    work();
    const double middle = cpu_us();
    work();
    watched.step();
    costs.push_back((cpu_us() - middle) - (middle - begin));
  }
  std::sort(costs.begin(), costs.end());
  const double median = costs[costs.size() / 2], worst = costs[costs.size() * 95 / 100];
  fmt::print(
      "watching costs {:.1f} us of CPU time a step in the median, {:.1f} us in the 95th percentile: {:.3f}% "
      "of 100 ms\n",
      median, worst, median * 1e-5 * 100);
  EXPECT_GT(sum, 0);
  EXPECT_GT(median, 0) << "nothing was measured";
  EXPECT_LT(median, 500);
}

}  // namespace
}  // namespace cadre::trainer
