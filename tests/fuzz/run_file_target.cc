// YAML of a run file, read with each kind of getter.
#include "parallel/base/config.h"
#include "tests/fuzz/targets.h"

void cadre::fuzz::run_file_target(std::string_view input) {
  survive([&] {
    base::Section root = base::parse_run_text(std::string(input), "fuzz.yaml", {"train.steps=3"});
    (void)root.integer("seed", 1, {.min = 0});
    (void)root.text("out", "");
    base::Section train = root.section("train");
    (void)train.integer("steps", 1, {.min = 1, .max = 10});
    (void)train.number("clip_norm", 1, {.min = 0});
    (void)train.numbers("betas", {});
    (void)train.texts("names", {});
    (void)train.boolean("async", true);
    (void)train.choice("verify", "size", {"size", "always"});
    train.finish();
    root.finish();
  });
}
