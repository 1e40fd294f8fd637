#include "trainer/audit/retrain.h"

#include "trainer/audit/derived_corpus.h"
#include "trainer/run/loop.h"
#include "trainer/study/run_result.h"

namespace cadre::audit {

namespace fs = std::filesystem;

std::optional<std::map<std::string, double>> retrain(const AuditContext& context, const std::string& name,
                                                     const trainer::Dataset& dataset,
                                                     const study::Overrides& more,
                                                     const std::function<void(const fs::path&)>& inspect) {
  const fs::path folder = context.out / "runs" / name;
  study::Overrides overrides = more;
  overrides.emplace_back("out", folder.string());
  const trainer::RunConfig config = context.configure(overrides);
  fs::create_directories(folder);
  if (trainer::train(config, dataset, context.world, {.measure_peak = false}) == ExitCode::kStopped)
    return std::nullopt;
  auto result = study::read_result(folder, "eval_loss").domains;
  if (inspect) inspect(folder);
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  return result;
}

trainer::Dataset with_training_text(const trainer::Dataset& dataset, std::unique_ptr<data::Corpus> train,
                                    std::unique_ptr<data::Corpus> target) {
  trainer::Dataset set;
  set.train = std::move(train);
  if (dataset.valid)
    set.valid =
        make_derived_corpus(*dataset.valid, domain_names(*dataset.valid), whole_documents(*dataset.valid));
  set.target = std::move(target);
  set.vocab = dataset.vocab;
  set.tokenizer_file = dataset.tokenizer_file;
  set.manifest_hash = dataset.manifest_hash;
  return set;
}

}  // namespace cadre::audit
