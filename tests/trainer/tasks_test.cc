// Evaluation tasks: files, prompts, filters and metrics.
#include <cmath>

#include "tests/trainer/task_fixture.h"
#include "trainer/evaluation/metrics.h"
#include "trainer/evaluation/pattern.h"
#include "trainer/evaluation/prompts.h"

namespace cadre::trainer {
namespace {

using testing::kChoice;
using testing::TaskFolder;

TEST(Task, PutsContextsTogetherAsTheHarnessDoes) {
  const TaskFolder f = testing::choice_folder();
  TaskConfig task =
      f.task(std::string(kChoice) + "num_fewshot: 2\ndescription: \"Add {{q | length}}.\\n\"\n");
  const auto documents = read_documents(task, "test", 0), examples = read_documents(task, "train", 0);
  const Prompts prompts(task);
  ASSERT_EQ(documents.size(), 3u);
  EXPECT_EQ(prompts.context(documents[0], examples), "Add 3.\n0+1 = 1\n\n20+2 = 22\n\n1+0 =");
  EXPECT_EQ(prompts.choices(documents[0]), (std::vector<std::string>{"1", "22", "{{x}}"}))
      << "lists are as they stand";
  EXPECT_EQ(prompts.target(documents[1]).choice, 1);
  task.fewshot_split = "test";
  EXPECT_EQ(prompts.context(documents[0], documents), "Add 3.\n9  = 22\n\na = {{x}}\n\n1+0 =")
      << "not itself";
  EXPECT_THROW(prompts.context(documents[0], {}), Error);
}

TEST(Task, ChoicesAndTargetsComeFromFieldsAndTemplates) {
  TaskFolder f;
  f.write("d.jsonl", R"({"c": ["x", "y"], "a": "y", "n": 1, "s": "1", "o": {"k": "p", "l": "q"}})");
  const auto target = [&](const std::string& choices, const std::string& wanted) {
    const TaskConfig task = f.task(
        "task: t\ndataset_path: json\ndataset_kwargs: {data_files: d.jsonl}\nvalidation_split: train\n"
        "output_type: multiple_choice\ndoc_to_text: q\ndoc_to_choice: " +
        choices + "\ndoc_to_target: " + wanted + "\n");
    return Prompts(task).target(read_documents(task, task.split, 0)[0]).choice;
  };
  EXPECT_EQ(target("c", "a"), 1);
  EXPECT_EQ(target("c", "n"), 1);
  EXPECT_EQ(target("c", "0"), 0);
  EXPECT_EQ(target("c", "\"{{ 1 }}\""), 1);
  EXPECT_EQ(target("\"{{ [a, n] }}\"", "a"), 0);
  EXPECT_EQ(target("\"{{ ['3', '1'] }}\"", "s"), 1) << "a field's text is a choice";
  EXPECT_EQ(target("\"{{ ['1', '3'] }}\"", "\"{{ s }}\""), 1)
      << "a number that a template writes is an index";
  EXPECT_EQ(target("o", "\"{{ 'q' }}\""), 1);
  EXPECT_THROW(target("c", "\"{{ 'z' }}\""), Error);
  EXPECT_THROW(target("c", "7"), Error);
  EXPECT_THROW(target("\"{{ nothing }}\"", "a"), Error);
}

TEST(Task, MistakesAreNamedWithTheirLine) {
  const TaskFolder f = testing::choice_folder();
  const auto error = [&](const std::string& from, const std::string& to) {
    std::string yaml = kChoice;
    yaml.replace(yaml.find(from), from.size(), to);
    try {
      f.task(yaml);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kUsage);
      const std::string what = e.what();
      return what.substr(what.find("task.yaml"));
    }
    return std::string("no error");
  };
  EXPECT_EQ(error("test_split", "tset_split"),
            "task.yaml, line 1: test_split: neither test_split nor validation_split is given");
  EXPECT_EQ(error("metadata", "doc_to_txt"),
            "task.yaml, line 11: doc_to_txt is not supported; did you mean 'doc_to_text'?");
  EXPECT_NE(error("metadata: {version: 1.0}", "process_docs: !function utils.f").find("not supported"),
            std::string::npos);
  EXPECT_EQ(error("\"{{label}}\"", "!function utils.f"),
            "task.yaml, line 9: doc_to_target: functions in Python are not supported; write a template");
  EXPECT_NE(error("metric: acc,", "metric: f1,")
                .find("line 10: metric_list.metric: found 'f1', expected one of acc"),
            std::string::npos);
  EXPECT_NE(error("aggregation: mean", "aggregation: median").find("expected mean"), std::string::npos);
  EXPECT_NE(error("path: json", "path: squad").find("only local files"), std::string::npos);
  EXPECT_NE(
      error("output_type: multiple_choice", "output_type: choice").find("expected one of multiple_choice"),
      std::string::npos);
  EXPECT_NE(error("doc_to_choice:", "task_alias:").find("doc_to_choice: is missing"), std::string::npos);
  EXPECT_NE(error("metadata: {version: 1.0}", "num_fewshot: -1").find("num_fewshot: found '-1'"),
            std::string::npos);
  EXPECT_NE(error("test_split: test", "test_split: dev").find("no split 'dev'"), std::string::npos);
  EXPECT_NE(error("data_files: {", "data_files: {, ").find("expected a name before each file"),
            std::string::npos)
      << "a key that is nothing";
  EXPECT_EQ(error("test.jsonl", std::string(300, 'n')), "no error") << "a name too long is not there";
  EXPECT_NE(error("task: sums", "task: [").find("no YAML"), std::string::npos);
  f.write("test.jsonl", "{\"q\": 1}\n[2]\n");
  EXPECT_THROW(read_documents(f.task(kChoice), "test", 0), Error);
}

TEST(Metrics, AnswersAreFilteredAndCompared) {
  const FilterChain number{.name = "n",
                           .steps = {{.kind = FilterStep::Kind::kRegex,
                                      .pattern = "(-?[$0-9.,]{2,})|(-?[0-9]+)",
                                      .fallback = "[invalid]",
                                      .group = -1}}};
  EXPECT_EQ(apply_filters(number, "first 12, then $1,300 and 5"), "5");
  EXPECT_EQ(apply_filters(number, "none"), "[invalid]");
  EXPECT_EQ(apply_filters({.name = "l",
                           .steps = {{.kind = FilterStep::Kind::kRemoveWhitespace},
                                     {.kind = FilterStep::Kind::kUppercase}}},
                          " a b\n"),
            "A B");
  MetricConfig metric{.name = "exact_match"};
  EXPECT_TRUE(exact_match(metric, "a", {"b", "a"}));
  EXPECT_FALSE(exact_match(metric, "A.", {"a"}));
  metric.ignore_case = metric.ignore_punctuation = true;
  metric.ignored = {"(?s).*#### ", ","};
  EXPECT_TRUE(exact_match(metric, "so\n#### A, b.", {"a b"}));
  EXPECT_THROW(Pattern("("), Error);
}

TEST(Metrics, StandardErrorsByHand) {
  const Estimate mean = estimate("acc", {{1}, {0}, {1}, {1}});
  EXPECT_EQ(mean.value, 0.75);
  EXPECT_NEAR(mean.error, std::sqrt(0.75 / 3) / 2, 1e-12) << "s / sqrt(n)";
  const Estimate same = estimate("word_perplexity", {{-2, 2}, {-3, 3}});
  EXPECT_NEAR(same.value, std::exp(1), 1e-12);
  EXPECT_NEAR(same.error, 0, 1e-12) << "every document agrees";
  const Estimate equal = estimate("perplexity", {{-1}, {-3}});
  EXPECT_NEAR(equal.value, std::exp(2), 1e-12);
  EXPECT_NEAR(equal.error, std::exp(2) * 1, 1e-12);
  EXPECT_EQ(estimate("acc", {{1}}).error, 0);
  EXPECT_EQ(count_words(" a b\n\nc "), 5) << "as Python's split by blanks";
  EXPECT_EQ(count_characters("n\u00e9\U0001f600"), 3);
}

}  // namespace
}  // namespace cadre::trainer
