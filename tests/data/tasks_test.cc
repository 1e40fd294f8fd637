// Every task: its answers against a solver written here from the prompt alone, its splits, its levels.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <sstream>

#include "data/reward.h"
#include "data/task.h"

namespace cadre::data {
namespace {

std::string between(const std::string& text, const std::string& left, const std::string& right) {
  const size_t begin = text.find(left) + left.size();
  return text.substr(begin, text.find(right, begin) - begin);
}
std::vector<std::string> words(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> out;
  for (std::string w; in >> w;) out.push_back(w);
  return out;
}

// Recursive descent.
struct Parser {
  std::string text;
  size_t at = 0;
  int64_t sum() {
    int64_t v = product();
    while (at < text.size() && (text[at] == '+' || text[at] == '-'))
      v = text[at++] == '+' ? v + product() : v - product();
    return v;
  }
  int64_t product() {
    int64_t v = atom();
    while (at < text.size() && text[at] == '*') ++at, v *= atom();
    return v;
  }
  int64_t atom() {
    if (text[at] == '(') {
      ++at;
      const int64_t v = sum();
      ++at;
      return v;
    }
    int64_t v = 0;
    while (at < text.size() && isdigit(text[at])) v = 10 * v + (text[at++] - '0');
    return v;
  }
};
std::string solve_arithmetic(const std::string& prompt) {
  std::string text = between(prompt, "Compute ", ".");
  text.erase(std::remove(text.begin(), text.end(), ' '), text.end());
  return std::to_string(Parser{text}.sum());
}

std::string solve_counting(const std::string& prompt) {
  const std::string letter = between(prompt, "letter ", " in "), text = between(prompt, " in ", "?");
  int n = 0;
  for (size_t at = text.find(letter); at != std::string::npos; at = text.find(letter, at + 1)) ++n;
  return std::to_string(n);
}

std::string solve_sorting(const std::string& prompt) {
  std::multiset<int> numbers;
  for (const std::string& w : words(between(prompt, ": ", "."))) numbers.insert(std::stoi(w));
  std::string out;
  for (const int n : numbers) out += (out.empty() ? "" : " ") + std::to_string(n);
  return out;
}

std::string solve_bases(const std::string& prompt) {
  const int from = std::stoi(between(prompt, "a number in base ", ",")),
            to = std::stoi(between(prompt, ", in base ", "."));
  const long value = std::stol(between(prompt, "Write ", ","), nullptr, from);
  EXPECT_NE(from, to);
  std::string out;
  for (long v = value; v > 0; v /= to)
    out.insert(out.begin(), v % to < 10 ? char('0' + v % to) : char('a' + v % to - 10));
  return out;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::string solve_string_edits(const std::string& prompt) {
  std::string text = between(prompt, "Take ", ":"), rest = between(prompt, ": ", ".") + ", then ";
  for (size_t at; (at = rest.find(", then ")) != std::string::npos; rest.erase(0, at + 7)) {
    const std::string edit = rest.substr(0, at);
    if (edit == "reverse it") {
      text = std::string(text.rbegin(), text.rend());
    } else if (edit == "move the first letter to the end") {
      text = text.substr(1) + text[0];
    } else if (edit.rfind("remove every ", 0) == 0) {
      text = replaced(text, edit.substr(13), "");
    } else {
      text = replaced(text, edit.substr(14, 1), edit.substr(19));
    }
  }
  return text;
}

// Tries every way to hand out the things; the clues must leave one answer.
std::string solve_logic_grids(const std::string& prompt) {
  std::vector<std::string> people, sentences;
  std::vector<std::vector<std::string>> things;
  std::stringstream in(prompt);
  for (std::string s; std::getline(in, s, '.');) sentences.push_back(s);
  const auto list = [](std::string text) {
    text = replaced(replaced(text, " and ", ", "), "the ", "");
    std::vector<std::string> out;
    std::stringstream items(text + ", ");
    for (std::string item; std::getline(items, item, ',');) {
      const auto w = words(item);
      if (!w.empty()) out.push_back(w[0]);
    }
    return out;
  };
  const std::string question = between(prompt, "Who has the ", "?");
  std::vector<std::pair<std::vector<std::string>, bool>> clues;  // words, negative
  for (const std::string& s : sentences) {
    if (s.find(" have ") != std::string::npos && s.find("one each") != std::string::npos) {
      people = list(s.substr(0, s.find(" have ")));
      things.push_back(list(between(s, " have ", ", one each")));
    } else if (s.find("Who has") == std::string::npos) {
      clues.push_back({words(s), s.find("does not") != std::string::npos});
    }
  }
  std::set<std::string> answers;
  std::vector<size_t> a(people.size()), b(people.size());
  std::iota(a.begin(), a.end(), 0);
  std::map<std::string, size_t> owner;
  do {
    std::iota(b.begin(), b.end(), 0);
    do {
      for (size_t i = 0; i < people.size(); ++i) {
        owner[people[i]] = i;
        owner[things[0][i]] = a[i];
        if (things.size() > 1) owner[things[1][i]] = b[i];
      }
      bool fits = true;
      for (const auto& [w, negative] : clues) {
        const std::string who = w[0] == "The" ? w[4] : w[0];
        fits = fits && (owner.at(who) == owner.at(w.back())) != negative;
      }
      if (fits) answers.insert(people[owner.at(question)]);
    } while (things.size() > 1 && std::next_permutation(b.begin(), b.end()));
  } while (std::next_permutation(a.begin(), a.end()));
  EXPECT_EQ(answers.size(), 1u) << prompt;
  return *answers.begin();
}

const std::map<std::string, std::function<std::string(const std::string&)>> kSolvers = {
    {"arithmetic", solve_arithmetic},     {"counting", solve_counting},
    {"sorting", solve_sorting},           {"bases", solve_bases},
    {"string_edits", solve_string_edits}, {"logic_grids", solve_logic_grids}};

class EveryTask : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryTask, AnswersAreWhatASolverFindsFromThePrompt) {
  ASSERT_TRUE(kSolvers.count(GetParam())) << "write a solver for the new task";
  const auto task = make_task(GetParam());
  const auto reward = make_reward(base::parse_run_text("name: exact_match", "run.yaml", {}));
  for (int level = 1; level <= task->levels(); ++level) {
    for (uint64_t i = 0; i < 60; ++i) {
      const Problem p = make_problem(*task, TaskSplit::kTrain, 5, i, level);
      EXPECT_EQ(kSolvers.at(GetParam())(p.prompt), p.answer) << "level " << level << ": " << p.prompt;
      EXPECT_EQ(p.level, level);
      const RewardRequest right{p.prompt, p.answer, p.answer}, wrong{p.prompt, p.answer + "1", p.answer};
      EXPECT_EQ(reward->score({&right, 1})[0].value, 1);
      EXPECT_EQ(reward->score({&wrong, 1})[0].value, 0);
    }
  }
}

TEST_P(EveryTask, SplitsNeverShareAPromptAndRepeatBitByBit) {
  const auto task = make_task(GetParam());
  std::set<std::string> train, held_out;
  for (int level = 1; level <= task->levels(); ++level) {
    for (uint64_t i = 0; i < 100; ++i) {
      const Problem p = make_problem(*task, TaskSplit::kTrain, 7, i, level);
      EXPECT_EQ(p.prompt, make_problem(*task, TaskSplit::kTrain, 7, i, level).prompt);
      train.insert(p.prompt);
      held_out.insert(make_problem(*task, TaskSplit::kHeldOut, 7, i, level).prompt);
    }
  }
  for (const std::string& prompt : held_out) EXPECT_FALSE(train.count(prompt)) << prompt;
  EXPECT_NE(make_problem(*task, TaskSplit::kTrain, 7, 0, task->levels()).prompt,
            make_problem(*task, TaskSplit::kTrain, 8, 0, task->levels()).prompt);
}

TEST_P(EveryTask, LevelsGrowInVariety) {
  const auto task = make_task(GetParam());
  EXPECT_GE(task->levels(), 3);
  const auto variety = [&](int level) {
    std::set<std::string> prompts;
    for (uint64_t i = 0; i < 400; ++i)
      prompts.insert(make_problem(*task, TaskSplit::kTrain, 3, i, level).prompt);
    return prompts.size();
  };
  EXPECT_GT(variety(task->levels()), variety(1) * 9 / 10);
  EXPECT_GT(variety(task->levels()), 350u);
  EXPECT_THROW(make_problem(*task, TaskSplit::kTrain, 3, 0, task->levels() + 1), Error);
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& entry : task_table()) all.push_back(entry.name);
  return all;
}
INSTANTIATE_TEST_SUITE_P(Table, EveryTask, ::testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace cadre::data
