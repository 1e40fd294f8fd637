// Every reward: what it takes for right and wrong, and that no response can hang or crash it.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "data/reward.h"
#include "parallel/base/errors.h"
#include "tests/temp_folder.h"

namespace cadre::data {
namespace {

std::unique_ptr<Reward> make(const std::string& yaml) {
  return make_reward(base::parse_run_text(yaml, "run.yaml", {}));
}
RewardResult judge(const std::string& yaml, const std::string& response, const std::string& answer = "") {
  const RewardRequest request{"p", response, answer};
  return make(yaml)->score({&request, 1}).at(0);
}
std::string error_of(const std::string& yaml) {
  try {
    make(yaml);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    return error.what();
  }
  return "no error";
}

// Some containers refuse namespaces: then programs run only with the network, and say so.
bool namespaces_refused() {
  static const bool refused =
      error_of("name: program\ncommand: [sh]").find("allow_network") != std::string::npos;
  return refused;
}
std::string settings(const std::string& reward, const std::string& yaml) {
  const bool open = reward == "program" && namespaces_refused();
  return fmt::format("name: {}\n{}{}", reward, open ? "allow_network: true\n" : "", yaml);
}

struct Case {
  std::string reward, yaml, response, answer;
  double value;
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.yaml << " | " << c.response << " | " << c.answer;
}
const std::string kPerson =
    R"(schema: '{"type": "object", "required": ["age"], "additionalProperties": false, "properties": {"age": {"type": "integer", "minimum": 0}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2, "uniqueItems": true}}}')";

// A list of two equal values as deep as that, whose brackets in texts would hide it from who counts all brackets.
std::string hidden_depth(int levels) {
  std::string value;
  for (int i = 0; i < levels; ++i) value += "[\"]\",";
  value += '1';
  value.append(size_t(levels), ']');
  return fmt::format("[{0},{0}]", value);
}

const std::vector<Case> kCases = {
    {"exact_match", "", " 42\n", "42", 1},
    {"exact_match", "", "42.", "42", 0},
    {"exact_match", "", "", "42", 0},
    {"exact_match", "ignore_case: true", "Ann", "ann", 1},
    {"exact_match", "", "Ann", "ann", 0},
    {"exact_match", "after: 'Answer:'", "Answer: 1\nAnswer: 2 \nmore", "2", 1},
    {"exact_match", "after: 'Answer:'", "2", "2", 0},
    {"numeric", "", "so 1,234,567 it is", "1234567", 1},
    {"numeric", "", "it is 12.50.", "12.5", 1},
    {"numeric", "", "7-3", "3", 1},
    {"numeric", "", "x = -3", "-3", 1},
    {"numeric", "", "x = -3", "3", 0},
    {"numeric", "", "1e3", "1000", 1},
    {"numeric", "", "1/3", "0.3333333333333", 1},
    {"numeric", "", "1/3", "0.333", 0},
    {"numeric", "tolerance: 0.01", "1/3", "0.333", 1},
    {"numeric", "", "007", "7", 1},
    {"numeric", "", "123456789012345678901234567890", "123456789012345678901234567891", 0},
    {"numeric", "", "-0", "0", 1},
    {"numeric", "", "1e999", "5", 0},
    {"numeric", "", "none", "5", 0},
    {"numeric", "", "1/0", "0", 1},
    {"numeric", "after: '='", "= 4 or\n5", "4", 1},
    {"regex", "pattern: '^[a-c]+$'", "abc", "", 1},
    {"regex", "pattern: 'b'", "abc", "", 1},
    {"regex", "pattern: 'b'\nwhole: true", "abc", "", 0},
    {"regex", "pattern: '\\d'",
     "ab\xff\xfe"
     "7",
     "", 1},
    {"json_schema", kPerson, R"({"age": 3, "tags": ["a", "b"]})", "", 1},
    {"json_schema", kPerson, R"({"age": 3.0})", "", 1},
    {"json_schema", kPerson, R"({"age": -1})", "", 0},
    {"json_schema", kPerson, R"({"age": 1, "tags": ["a", "a"]})", "", 0},
    {"json_schema", kPerson, R"({"age": 1, "tags": ["c"]})", "", 0},
    {"json_schema", kPerson, R"({"age": 1, "name": 1})", "", 0},
    {"json_schema", kPerson, R"({"tags": []})", "", 0},
    {"json_schema", kPerson, "[1", "", 0},
    {"json_schema", kPerson, std::string(100000, '['), "", 0},
    {"json_schema", "schema: '{\"uniqueItems\": true}'", hidden_depth(300000), "", 0},
    {"json_schema",
     "after: 'JSON:'\nschema: '{\"anyOf\": [{\"type\": \"null\"}, {\"pattern\": \"^x\", \"type\": "
     "\"string\", \"maxLength\": 3}]}'",
     "JSON:\n\"x\u00e4y\"\n", "", 1},
    {"json_schema", "schema: '{\"oneOf\": [{\"minimum\": 3}, {\"multipleOf\": 2}]}'", "4", "", 0},
    {"json_schema", "schema: '{\"not\": {\"type\": [\"number\", \"null\"]}}'", "true", "", 1},
    {"program", "command: [sh, -c, 'read line; echo 0.25; echo more']", "x", "", 0.25},
    {"program", "command: [sh, -c, 'cat > /dev/null; echo ''{\"reward\": -2}''']", "x", "", -2},
    {"program", "command: [sh, -c, 'grep -c three']", "one two three", "", 1},
    {"program", "command: [sh, -c, 'echo 1']", std::string(1 << 20, 'x'), "", 1},  // does not read its input
};

class EveryReward : public ::testing::TestWithParam<Case> {};
TEST_P(EveryReward, JudgesAsExpected) {
  const Case& c = GetParam();
  const RewardResult result = judge(settings(c.reward, c.yaml), c.response, c.answer);
  EXPECT_EQ(result.failure, "");
  EXPECT_DOUBLE_EQ(result.value, c.value);
}
INSTANTIATE_TEST_SUITE_P(Table, EveryReward, ::testing::ValuesIn(kCases));

TEST(Rewards, AllOfTheTableHaveCasesOfBothOutcomes) {
  for (const auto& entry : reward_table()) {
    int right = 0, other = 0;
    for (const Case& c : kCases) {
      if (c.reward == entry.name) (c.value == 1 ? right : other) += 1;
    }
    EXPECT_GT(right, 0) << entry.name;
    EXPECT_GT(other, 0) << entry.name;
  }
}

TEST(Rewards, StopAPatternThatBacktracksWithoutEnd) {
  const RewardResult result = judge("name: regex\npattern: '^(a+)+$'", std::string(60, 'a') + "!");
  EXPECT_EQ(result.value, 0);
  EXPECT_NE(result.failure.find("steps"), std::string::npos);
}

// The program runs without a user's name.
struct Folder : test::TempFolder {
  Folder() { std::filesystem::permissions(path(), std::filesystem::perms::all); }
};

TEST(ProgramReward, FailsCleanlyOnHangsGarbageFloodsAndCrashes) {
  const std::pair<std::string, std::string> table[] = {
      {"command: [sleep, '60']\ntimeout_s: 0.2", "took more than 200 ms"},
      {"command: [sh, -c, 'echo correct']", "printed \"correct\", expected a number"},
      {"command: [sh, -c, 'echo nan']", "finite"},
      {"command: [sh, -c, 'echo']", "printed \"\""},
      {"command: [sh, -c, 'echo 1; exit 3']", "exit code 3"},
      {"command: [yes]\noutput_bytes: 1000\ntimeout_s: 20", "more than 1000 bytes"},
      {"command: [sh, -c, 'printf \"\\\\377\\\\n\"']", "expected a number"}};
  for (const auto& [yaml, expected] : table) {
    const RewardResult result = judge(settings("program", yaml), "x");
    EXPECT_EQ(result.value, 0) << yaml;
    EXPECT_NE(result.failure.find(expected), std::string::npos) << yaml << ": " << result.failure;
    EXPECT_EQ(result.failure.find('\n'), std::string::npos) << result.failure;
  }
}

TEST(ProgramReward, LimitsMemory) {
  const RewardResult result = judge(
      settings("program", "command: [python3, -c, 'x = bytearray(1 << 30); print(1)']\nmemory_mb: 256"), "x");
  EXPECT_EQ(result.value, 0);
  EXPECT_NE(result.failure, "");
}

// The child would write a second time after half a second; it holds standard output open all the time.
TEST(ProgramReward, KillsWhatTheProgramLeavesBehind) {
  Folder folder;
  const std::string file = (folder.path() / "alive").string();
  for (const std::string start : {"", "setsid "}) {
    if (!start.empty() && namespaces_refused())
      continue;  // nothing but a namespace holds what leaves the group
    std::filesystem::remove(file);
    const std::string script = fmt::format("{}sh -c \"sleep 0.5; echo x > {}\" & echo 1", start, file);
    const auto begin = std::chrono::steady_clock::now();
    const RewardResult result =
        judge(settings("program", fmt::format("timeout_s: 30\ncommand: [sh, -c, '{}']", script)), "x");
    EXPECT_EQ(result.value, 1) << result.failure;
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(25)) << "waited for the child";
    std::this_thread::sleep_for(std::chrono::milliseconds(900));
    EXPECT_FALSE(std::filesystem::exists(file)) << "the child went on: " << start;
  }
}

// It forks and hangs; nothing of it may be left to write after the time is over.
TEST(ProgramReward, KillsWhatAHangingProgramForked) {
  Folder folder;
  const std::string file = (folder.path() / "alive").string();
  const std::string script =
      fmt::format("for i in 1 2 3 4 5 6; do sh -c \"sleep 0.6; echo x > {}\" & done; wait; sleep 60", file);
  const RewardResult result =
      judge(settings("program", fmt::format("timeout_s: 0.2\ncommand: [sh, -c, '{}']", script)), "x");
  EXPECT_EQ(result.value, 0);
  EXPECT_NE(result.failure.find("took more than 200 ms"), std::string::npos) << result.failure;
  std::this_thread::sleep_for(std::chrono::milliseconds(1000));
  EXPECT_FALSE(std::filesystem::exists(file)) << "a child went on";
}

TEST(ProgramReward, HasNoNetwork) {
  if (namespaces_refused()) GTEST_SKIP() << "this kernel or container refuses namespaces";
  // Interfaces of a namespace of its own: the loopback device alone.
  const RewardResult result =
      judge("name: program\ncommand: [sh, -c, 'tail -n +3 /proc/net/dev | grep -vc lo:; true']", "x");
  EXPECT_EQ(result.failure, "");
  EXPECT_EQ(result.value, 0);
}

TEST(ProgramReward, JudgesManyAtOnceInOrder) {
  const auto reward = make(settings("program", "parallel: 3\ncommand: [sh, -c, 'tr -cd 0-9']"));
  std::vector<RewardRequest> requests;
  for (int i = 0; i < 12; ++i) requests.push_back({"p", std::to_string(i), ""});
  const auto results = reward->score(requests);
  for (int i = 0; i < 12; ++i) EXPECT_EQ(results[size_t(i)].value, i) << results[size_t(i)].failure;
}

TEST(Rewards, RefuseSettingsThatCannotWork) {
  const std::pair<std::string, std::string> table[] = {
      {"name: exact_mach", "did you mean 'exact_match'"},
      {"name: regex\npattern: '('", "no regular expression"},
      {"name: json_schema\nschema: '{\"typ\": 1}'", "'typ' is not supported"},
      {"name: json_schema\nschema: '{'", "no JSON"},
      {"name: json_schema", "schema"},
      {"name: program\ncommand: [no-such-program-here]", "no-such-program-here"},
      {"name: program", "command"},
      {"name: numeric\ntolerence: 1", "tolerance"}};
  for (const auto& [yaml, expected] : table)
    EXPECT_NE(error_of(yaml).find(expected), std::string::npos) << yaml << ": " << error_of(yaml);
}

}  // namespace
}  // namespace cadre::data
