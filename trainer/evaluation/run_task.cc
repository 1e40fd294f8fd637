#include "trainer/evaluation/run_task.h"

#include <map>

#include "parallel/base/errors.h"
#include "trainer/evaluation/prompts.h"

namespace cadre::trainer {
namespace {

using Documents = std::vector<data::jinja::Map>;

// Samples of every metric and filter, in the order of the documents.
struct Table {
  const TaskConfig& task;
  std::map<std::pair<std::string, std::string>, std::vector<Sample>> samples = {};

  void add(const std::string& metric, Sample sample, const std::string& filter = "none") {
    samples[{metric, filter}].push_back(sample);
  }
};

void multiple_choice(const Prompts& prompts, const Documents& documents, const Documents& examples,
                     Scorer& scorer, Table& table) {
  std::vector<ScoreRequest> requests;
  std::vector<std::vector<std::string>> choices;
  for (const auto& document : documents) {
    const std::string context = prompts.context(document, examples);
    choices.push_back(prompts.choices(document));
    for (const std::string& choice : choices.back())
      requests.push_back(scorer.pair(context, table.task.target_delimiter + choice));
  }
  const std::vector<Score> scores = scorer.score(requests);
  size_t at = 0;
  for (size_t d = 0; d < documents.size(); ++d) {
    std::vector<double> plain, by_characters, by_bytes;
    for (const std::string& choice : choices[d]) {
      const double logp = scores[at++].logp;
      require(!choice.empty(), ExitCode::kData, "{}: document {} has an empty choice", table.task.source,
              d + 1);
      plain.push_back(logp);
      by_characters.push_back(logp / static_cast<double>(count_characters(choice)));
      by_bytes.push_back(logp / static_cast<double>(choice.size()));
    }
    const int64_t right = prompts.target(documents[d]).choice;
    const auto correct = [&](const std::vector<double>& by) {
      return Sample{best_choice(by) == right ? 1.0 : 0.0};
    };
    table.add("acc", correct(plain));
    table.add("acc_norm", correct(by_characters));
    table.add("acc_bytes", correct(by_bytes));
  }
}

void log_likelihood(const Prompts& prompts, const Documents& documents, const Documents& examples,
                    Scorer& scorer, Table& table) {
  std::vector<ScoreRequest> requests;
  // As in the harness, no delimiter here: the target says what stands before it.
  for (const auto& document : documents)
    requests.push_back(scorer.pair(prompts.context(document, examples), prompts.target(document).texts[0]));
  for (const Score& score : scorer.score_greedy(requests)) {
    table.add("perplexity", {score.logp});
    table.add("acc", {score.greedy ? 1.0 : 0.0});
  }
}

void rolling(const Prompts& prompts, const Documents& documents, int64_t context, Scorer& scorer,
             Table& table) {
  std::vector<ScoreRequest> requests;
  std::vector<size_t> windows;
  std::vector<std::string> texts;
  for (const auto& document : documents) {
    texts.push_back(prompts.target(document).texts[0]);
    const std::vector<ScoreRequest> parts = scorer.rolling(texts.back(), context);
    windows.push_back(parts.size());
    requests.insert(requests.end(), parts.begin(), parts.end());
  }
  const std::vector<Score> scores = scorer.score(requests);
  size_t at = 0;
  for (size_t d = 0; d < documents.size(); ++d) {
    double logp = 0;
    for (size_t w = 0; w < windows[d]; ++w) logp += scores[at++].logp;
    table.add("word_perplexity", {logp, static_cast<double>(count_words(texts[d]))});
    table.add("byte_perplexity", {logp, static_cast<double>(texts[d].size())});
    table.add("bits_per_byte", {logp, static_cast<double>(texts[d].size())});
  }
}

void generation(const Prompts& prompts, const Documents& documents, const Documents& examples, Scorer& scorer,
                Table& table) {
  std::vector<std::string> contexts;
  for (const auto& document : documents) contexts.push_back(prompts.context(document, examples));
  const std::vector<std::string> answers = scorer.generate(contexts, table.task.until, table.task.max_tokens);
  for (size_t d = 0; d < documents.size(); ++d) {
    const std::vector<std::string> right = prompts.target(documents[d]).texts;
    for (const FilterChain& chain : table.task.filters) {
      const std::string answer = apply_filters(chain, answers[d]);
      for (const MetricConfig& metric : table.task.metrics)
        table.add(metric.name, {exact_match(metric, answer, right) ? 1.0 : 0.0}, chain.name);
    }
  }
}

}  // namespace

TaskResult run_task(const TaskConfig& given, Scorer& scorer, const TaskOptions& options) {
  TaskConfig task = given;
  if (options.num_fewshot >= 0) task.num_fewshot = options.num_fewshot;
  const Prompts prompts(task);
  const Documents documents = read_documents(task, task.split, options.limit);
  // One more than wanted, for the document that is its own example.
  const Documents examples =
      task.num_fewshot > 0 ? read_documents(task, task.fewshot_split, task.num_fewshot + 1) : Documents();
  Table table{task};
  switch (task.output) {
    case OutputType::kMultipleChoice:
      multiple_choice(prompts, documents, examples, scorer, table);
      break;
    case OutputType::kLogLikelihood:
      log_likelihood(prompts, documents, examples, scorer, table);
      break;
    case OutputType::kRolling:
      rolling(prompts, documents, options.window_context, scorer, table);
      break;
    case OutputType::kGenerate:
      generation(prompts, documents, examples, scorer, table);
      break;
  }
  TaskResult result{task.name, static_cast<int64_t>(documents.size()), task.num_fewshot, {}};
  for (const FilterChain& chain : task.filters) {
    for (const MetricConfig& metric : task.metrics)
      result.metrics.push_back(
          {metric.name, chain.name, estimate(metric.name, table.samples[{metric.name, chain.name}])});
  }
  return result;
}

nlohmann::ordered_json results_json(const std::vector<TaskResult>& results) {
  nlohmann::ordered_json root = {{"results", nlohmann::ordered_json::object()}};
  for (const TaskResult& result : results) {
    auto& row = root["results"][result.task];
    row["alias"] = result.task;
    for (const TaskMetric& m : result.metrics) {
      row[m.metric + "," + m.filter] = m.estimate.value;
      row[m.metric + "_stderr," + m.filter] = m.estimate.error;
    }
    root["n-shot"][result.task] = result.num_fewshot;
    root["n-samples"][result.task] = {{"effective", result.documents}};
  }
  return root;
}

std::string results_table(const std::vector<TaskResult>& results) {
  std::string text = fmt::format("{:<24} {:>6} {:>6}  {:<16} {:<18} {:>12} {:>10}\n", "task", "n", "shots",
                                 "filter", "metric", "value", "stderr");
  for (const TaskResult& result : results) {
    for (const TaskMetric& m : result.metrics) {
      text += fmt::format("{:<24} {:>6} {:>6}  {:<16} {:<18} {:>12.4f} {:>10.4f}\n", result.task,
                          result.documents, result.num_fewshot, m.filter, m.metric, m.estimate.value,
                          m.estimate.error);
    }
  }
  return text;
}

}  // namespace cadre::trainer
