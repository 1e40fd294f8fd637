#include "parallel/base/config.h"

#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "parallel/base/errors.h"
#include "parallel/base/named_entry.h"

namespace cadre::base {
namespace {

using Overrides = std::vector<std::string>;

// The message of the Error(kUsage) that reading `text` as run.yaml ends in.
std::string error_of(const std::string& text, const std::function<void(Section&)>& read,
                     const Overrides& overrides = {}) {
  try {
    Section root = parse_run_text(text, "run.yaml", overrides);
    read(root);
    root.finish();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    return error.what();
  }
  return "no error";
}

const std::string kRun =
    "seed: 1\n"
    "mixer: unimax\n"
    "optim:\n"
    "  lr: 3.0e-3\n"
    "  betas: [0.9, 0.95]\n"
    "  name: adamw\n"
    "data: {pack: true, sizes: [1, 2], names: [a, 'b c']}\n";

void read_all(Section& root) {
  root.integer("seed", 0);
  Section mixer = root.section("mixer");
  mixer.text("name");
  mixer.finish();
  Section optim = root.section("optim");
  optim.text("name");
  optim.number("lr", 1);
  optim.numbers("betas", {});
  optim.finish();
  Section data = root.section("data");
  data.boolean("pack", false);
  data.integers("sizes", {});
  data.texts("names", {});
  data.finish();
}

TEST(Section, ReadsEveryKindOfValue) {
  Section root = parse_run_text(kRun, "run.yaml", {});
  EXPECT_EQ(root.integer("seed"), 1);
  EXPECT_EQ(root.section("mixer").text("name"), "unimax");
  Section optim = root.section("optim");
  EXPECT_EQ(optim.number("lr", 0), 3.0e-3);
  EXPECT_EQ(optim.numbers("betas", {}), (std::vector<double>{0.9, 0.95}));
  EXPECT_EQ(optim.choice("name", "x", {"muon", "adamw"}), "adamw");
  EXPECT_EQ(optim.path(), "optim");
  Section data = root.section("data");
  EXPECT_TRUE(data.boolean("pack", false));
  EXPECT_EQ(data.integers("sizes", {}), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(data.texts("names", {}), (std::vector<std::string>{"a", "b c"}));
  EXPECT_NO_THROW(root.finish());
  EXPECT_NO_THROW(data.finish());
}

TEST(Section, MissingKeysGiveTheDefault) {
  Section root = parse_run_text("a: 1", "run.yaml", {});
  EXPECT_EQ(root.integer("x", 7), 7);
  EXPECT_EQ(root.number("x", 0.5), 0.5);
  EXPECT_TRUE(root.boolean("x", true));
  EXPECT_EQ(root.text("x", "y"), "y");
  EXPECT_EQ(root.choice("x", "y", {"z"}), "y");
  EXPECT_EQ(root.integers("x", {4}), std::vector<int64_t>{4});
  EXPECT_FALSE(root.has("x"));
  EXPECT_TRUE(root.has("a"));
  Section empty = root.section("x");
  EXPECT_EQ(empty.integer("y", 3), 3);
  EXPECT_NO_THROW(empty.finish());
}

TEST(Section, AMissingKeyWithoutDefaultNamesTheSectionsLine) {
  EXPECT_EQ(error_of("seed: 1\n", [](Section& s) { s.section("data").text("manifest"); }),
            "run.yaml: data.manifest: is missing, expected text");
  EXPECT_EQ(error_of("seed: 1\ndata:\n  x: 1\n", [](Section& s) { s.section("data").text("manifest"); }),
            "run.yaml:3: data.manifest: is missing, expected text");
  EXPECT_EQ(error_of("seed: 1\n", [](Section& s) { s.integer("steps", {.min = 1}); }),
            "run.yaml:1: steps: is missing, expected an integer of at least 1");
}

struct Wrong {
  const char* text;
  std::function<void(Section&)> read;
  const char* message;
};

TEST(Section, WrongTypesAndValuesNameLineKeyFoundAndExpected) {
  const std::vector<Wrong> table = {
      {"a: 1\nb: x", [](Section& s) { s.integer("b"); }, "run.yaml:2: b: found 'x', expected an integer"},
      {"b: 1.5", [](Section& s) { s.integer("b"); }, "run.yaml:1: b: found '1.5', expected an integer"},
      {"b: 99999999999999999999", [](Section& s) { s.integer("b"); },
       "run.yaml:1: b: found '99999999999999999999', expected an integer"},
      {"b: -1", [](Section& s) { s.integer("b", {.min = 0}); },
       "run.yaml:1: b: found '-1', expected an integer of at least 0"},
      {"b: 9", [](Section& s) { s.integer("b", 1, {.max = 8}); },
       "run.yaml:1: b: found '9', expected an integer of at most 8"},
      {"b: 9",
       [](Section& s) {
         s.integer("b", 1, {2, 8});
       },
       "run.yaml:1: b: found '9', expected an integer from 2 to 8"},
      {"b:", [](Section& s) { s.integer("b"); }, "run.yaml:1: b: found nothing, expected an integer"},
      {"b: '5'", [](Section& s) { s.integer("b"); }, "run.yaml:1: b: found text '5', expected an integer"},
      {"b: {c: 1}", [](Section& s) { s.integer("b"); }, "run.yaml:1: b: found a map, expected an integer"},
      {"b: 0", [](Section& s) { s.number("b", 1, {.above = 0}); },
       "run.yaml:1: b: found '0', expected a number, above 0"},
      {"b: 1", [](Section& s) { s.number("b", 0, {.min = 0, .below = 1}); },
       "run.yaml:1: b: found '1', expected a number, at least 0 and below 1"},
      {"b: .nan", [](Section& s) { s.number("b", 1); }, "run.yaml:1: b: found '.nan', expected a number"},
      {"b: nan", [](Section& s) { s.number("b", 1); }, "run.yaml:1: b: found 'nan', expected a number"},
      {"b: inf", [](Section& s) { s.number("b", 1); }, "run.yaml:1: b: found 'inf', expected a number"},
      {"b: 1e999", [](Section& s) { s.number("b", 1); }, "run.yaml:1: b: found '1e999', expected a number"},
      {"b: maybe", [](Section& s) { s.boolean("b", true); },
       "run.yaml:1: b: found 'maybe', expected true or false"},
      {"b: [1]", [](Section& s) { s.text("b"); }, "run.yaml:1: b: found a list of 1, expected text"},
      {"b: sise",
       [](Section& s) {
         s.choice("b", "size", {"always", "size"});
       },
       "run.yaml:1: b: found 'sise', expected one of always, size, did you mean 'size'?"},
      {"b: [1, x]", [](Section& s) { s.numbers("b", {}); },
       "run.yaml:1: b: found 'x', expected a list of numbers"},
      {"b: 3", [](Section& s) { s.integers("b", {}); },
       "run.yaml:1: b: found '3', expected a list of integers"},
      {"b: [[1]]", [](Section& s) { s.texts("b", {}); },
       "run.yaml:1: b: found a list of 1, expected a list of words"},
      {"\nb: [1]", [](Section& s) { s.section("b"); },
       "run.yaml:2: b: found a list of 1, expected a map of keys"},
      {"\nb: 5",
       [](Section& s) {
         Section b = s.section("b");
         b.integer("c", 1);
         b.finish();
       },
       "run.yaml:2: b: found '5', expected a map of keys"},
      {"b: 1", [](Section& s) { s.reject("b", "does not fit"); }, "run.yaml:1: b: does not fit"},
  };
  for (const Wrong& wrong : table) EXPECT_EQ(error_of(wrong.text, wrong.read), wrong.message);
}

TEST(Section, AnUnknownKeyNamesItsLineAndTheNearestOne) {
  EXPECT_EQ(error_of(kRun, read_all), "no error");
  EXPECT_EQ(error_of(kRun + "sead: 2\n", read_all), "run.yaml:8: sead: unknown key, did you mean 'seed'?");
  EXPECT_EQ(error_of(kRun + "zzzzzz: 2\n", read_all),
            "run.yaml:8: zzzzzz: unknown key; known here: data, mixer, optim, seed");
  EXPECT_EQ(error_of("mixer: x\noptim:\n  name: x\n  bteas: [1]\n", read_all),
            "run.yaml:4: optim.bteas: unknown key, did you mean 'betas'?");
}

TEST(Section, AskingForAKeyIsNotReadingIt) {
  EXPECT_EQ(error_of("moe: 1\n", [](Section& s) { s.has("moe"); }),
            "run.yaml:1: moe: unknown key; known here: ");
  EXPECT_EQ(error_of("mo: 1\n", [](Section& s) { s.has("moe"); }),
            "run.yaml:1: mo: unknown key, did you mean 'moe'?");
}

TEST(Section, CopiesShareTheRecordOfReadKeys) {
  Section root = parse_run_text("a: 1", "run.yaml", {});
  Section copy = root;
  copy.integer("a");
  EXPECT_NO_THROW(root.finish());
}

TEST(Overrides, ReplaceAddAndExpandTheShorthand) {
  Section root = parse_run_text(kRun, "run.yaml",
                                {"optim.lr=0.5", "mixer.max_epochs=4", "new.deep.key={x: [1, 2]}", "seed=7",
                                 "seed=8", "optim.name=a=b"});
  EXPECT_EQ(root.integer("seed"), 8);
  EXPECT_EQ(root.section("optim").number("lr", 0), 0.5);
  EXPECT_EQ(root.section("optim").text("name"), "a=b");
  EXPECT_EQ(root.section("mixer").text("name"), "unimax");
  EXPECT_EQ(root.section("mixer").integer("max_epochs"), 4);
  EXPECT_EQ(root.section("new").section("deep").section("key").integers("x", {}),
            (std::vector<int64_t>{1, 2}));
}

TEST(Overrides, AreTheSourceInMessages) {
  EXPECT_EQ(error_of(kRun, read_all, {"optim.lr=fast"}),
            "command line: optim.lr: found 'fast', expected a number");
  EXPECT_EQ(error_of(kRun, read_all, {"optim.lrr=1"}),
            "command line: optim.lrr: unknown key, did you mean 'lr'?");
  EXPECT_EQ(error_of(kRun, [](Section& s) { s.section("x").text("z"); }, {"x.y=1"}),
            "command line: x.z: is missing, expected text");
  EXPECT_EQ(error_of(kRun, [](Section& s) { s.integer("seed"); }, {"seed='5'"}),
            "command line: seed: found text '5', expected an integer");
}

TEST(Overrides, MalformedOnesAreUsageErrors) {
  const auto none = [](Section&) {};
  for (const char* bad : {"seed", "=5", "seed=", ""}) {
    EXPECT_EQ(error_of(kRun, none, {bad}),
              fmt::format("command line: found '{}', expected key.sub=value", bad));
  }
  for (const char* bad : {"a..b=1", ".a=1", "a.=1"}) {
    EXPECT_NE(error_of(kRun, none, {bad}).find("command line: found an empty key"), std::string::npos) << bad;
  }
  EXPECT_EQ(error_of(kRun, none, {"optim.betas.x=1"}),
            "command line: optim.betas.x: 'betas' is a list, not a map of keys");
  EXPECT_NE(error_of(kRun, none, {"seed=[1"}).find("command line: seed: the value is not valid YAML"),
            std::string::npos);
  EXPECT_NE(error_of(kRun, none, {"seed={a: 1, a: 2}"}).find("found the key twice"), std::string::npos);
}

TEST(RunFile, HostileTextEndsAsOneError) {
  const auto none = [](Section&) {};
  EXPECT_EQ(error_of("a: 1\nb: 2\na: 3\n", none), "run.yaml:3: a: found the key twice; keep one of them");
  EXPECT_EQ(error_of("x:\n  - {a: 1, a: 3}\n", none),
            "run.yaml:2: x.a: found the key twice; keep one of them");
  EXPECT_EQ(error_of("- 1", none), "run.yaml:1: found a list, expected a map of keys at the top");
  EXPECT_EQ(error_of("words", none), "run.yaml:1: found a lone value, expected a map of keys at the top");
  EXPECT_EQ(error_of("", none), "run.yaml:1: found nothing, expected a map of keys at the top");
  EXPECT_EQ(error_of("a: 1\n---\nb: 2\n", none), "run.yaml: found 2 YAML documents, expected one");
  EXPECT_EQ(error_of(", a", none), "run.yaml: found 2 YAML documents, expected one")
      << "not an endless search";
  EXPECT_EQ(error_of("a: &x [1]\nb: *x\n", none),
            "run.yaml:2: found an alias (*name); write the value out instead");
  EXPECT_EQ(error_of("a: &x [*x]\n", none),
            "run.yaml:1: found an alias (*name); write the value out instead");
  EXPECT_EQ(error_of("{a: 1}: 2\n", none), "run.yaml:1: found a key that is not a word");
  EXPECT_NE(error_of("a: [1, 2\n", none).find("not valid YAML"), std::string::npos);
  EXPECT_NE(error_of("a: 1\n\tb: 2\n", none).find("run.yaml:2: not valid YAML"), std::string::npos);
  for (const char* nest : {"[", "{", "- ", "{a: ", "[[a, "}) {
    std::string deep;
    for (int i = 0; i < 20000; ++i) deep += nest;
    EXPECT_NE(error_of(deep, none), "no error") << nest;
  }
  EXPECT_EQ(error_of(std::string(40, '[') + std::string(40, ']'), none),
            "run.yaml:1: nested deeper than 32 levels");
}

TEST(RunFile, AnyBytesEndAsAnErrorOrASection) {
  uint64_t state = 88172645463325252ull;
  for (int round = 0; round < 2000; ++round) {
    std::string text = kRun;
    for (int hits = 0; hits < 4; ++hits) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      text[state % text.size()] = char(state >> 40);
    }
    error_of(text, read_all);
  }
}

TEST(RunFile, ReadsFromDiskAndSaysWhenItCannot) {
  const std::string path = testing::TempDir() + "cadre_config_test.yaml";
  std::ofstream(path) << "seed: 3\n";
  EXPECT_EQ(parse_run_file(path, {"seed=4"}).integer("seed"), 4);
  std::filesystem::remove(path);
  try {
    parse_run_file(path, {});
    FAIL() << "a missing file was read";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    EXPECT_EQ(error.what(), "cannot open " + path + ": No such file or directory");
  }
}

TEST(Nearest, FindsTyposAndNothingFarAway) {
  const std::vector<std::string> words = {"uniform", "unimax", "natural", "lr"};
  EXPECT_EQ(nearest("unimx", words), "unimax");
  EXPECT_EQ(nearest("natrual", words), "natural");
  EXPECT_EQ(nearest("rl", words), "lr");
  EXPECT_EQ(nearest("temperature", words), "");
  EXPECT_EQ(nearest("", {}), "");
}

TEST(Table, AnUnknownNamePrintsTheTable) {
  using Maker = int (*)();
  const std::vector<Entry<Maker>> table = {{"natural", "by size", nullptr},
                                           {"unimax", "even, capped", nullptr}};
  EXPECT_STREQ(find_entry(table, "mixer", "unimax").about, "even, capped");
  try {
    find_entry(table, "mixer", "unimx");
    FAIL() << "an unknown name was found";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "unknown mixer 'unimx', did you mean 'unimax'? Known mixers:\n"
                 "  natural          by size\n"
                 "  unimax           even, capped");
  }
  EXPECT_EQ(error_of("seed: 1\nmixer: unimx\n",
                     [&](Section& root) {
                       Section mixer = root.section("mixer");
                       find_entry(table, "mixer", mixer, mixer.text("name"));
                     }),
            "run.yaml:2: mixer.name: unknown mixer 'unimx', did you mean 'unimax'? Known mixers:\n"
            "  natural          by size\n"
            "  unimax           even, capped");
}

}  // namespace
}  // namespace cadre::base
