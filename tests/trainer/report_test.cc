// Event files, the Prometheus endpoint, charts, the report page and the screen of `cadre top`.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "parallel/base/files.h"
#include "tests/temp_folder.h"
#include "trainer/report/chart.h"
#include "trainer/report/endpoint.h"
#include "trainer/report/event_file.h"
#include "trainer/report/page.h"
#include "trainer/report/top.h"

namespace cadre::report {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class Report : public testing::Test {
 protected:
  // A run of two domains and two MoE layers with hostile names.
  RunData small_run() {
    std::ofstream metrics(folder_ / "metrics.jsonl");
    for (int step = 1; step <= 40; ++step) {
      json line = {{"kind", "train"},
                   {"step", step},
                   {"loss", 4.0 - step * 0.05},
                   {"tokens_per_s", 100.0 + step},
                   {"domain_loss", {{"<b>&'a", 3.5}, {"plain", 3.0}}},
                   {"domain_weight", {{"<b>&'a", 0.25}, {"plain", 0.75}}}};
      if (step % 10 == 0) line["expert_load"] = {{"1", {10, 30}}, {"2", {20, 20}}};
      if (step % 10 == 0) line["domain_experts"] = {{"1", {{"plain", {30, 10}}, {"<b>&'a", {5, 5}}}}};
      metrics << line.dump() << "\n";
      if (step % 20 == 0) {
        metrics << json({{"kind", "probe"},
                         {"step", step},
                         {"influence", {{"mean", {{"plain", 0.5}, {"<b>&'a", -0.25}}}}},
                         {"influence_se", {{"mean", {{"plain", 0.125}}}}}})
                       .dump()
                << "\n";
      }
    }
    metrics << R"({"kind":"eval","step":40,"eval_loss":{"plain":2.5},"eval_bpb":{"plain":1.5}})"
            << "\n";
    metrics << R"({"kind":"event","step":40,"event":"stop","message":"<script>alert(1)</script>"})"
            << "\n";
    metrics << "not json\n"
            << R"({"kind":"train","step":"x"})"
            << "\n"
            << R"({"kind":"train","step":41,"lo)";
    std::ofstream(folder_ / "config.resolved.yaml") << "seed: 1\ntrain:\n  steps: 80\n";
    std::ofstream(folder_ / "environment.json") << R"({"commit":"abc123","host":"h<1>"})";
    metrics.close();
    return read_run_folder(folder_);
  }

  const test::TempFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

uint32_t u32(std::string_view bytes) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

TEST(Crc32c, IsThatOfTheStandard) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);            // the check value of CRC-32C
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  EXPECT_EQ(masked_crc32c("123456789"), ((0xE3069283u >> 15) | (0xE3069283u << 17)) + 0xa282ead8u);
}

TEST_F(Report, EventFilesHoldOneFrameALineAndEveryNumber) {
  {
    EventFile file(folder_ / "tb", 5);
    file.line({{"kind", "train"},
               {"step", 300},
               {"loss", 1.5},
               {"domain_loss", {{"a", 2.5}}},
               {"note", "x"},
               {"bad", nullptr}});
    file.line({{"kind", "event"}, {"step", 301}, {"event", "stop"}});
  }
  const fs::path path = fs::directory_iterator(folder_ / "tb")->path();
  EXPECT_NE(path.filename().string().find("tfevents"), std::string::npos);
  const std::string bytes = base::read_file(path, ExitCode::kData);
  std::vector<std::string> records;
  for (size_t at = 0; at < bytes.size();) {
    uint64_t length = 0;
    std::memcpy(&length, bytes.data() + at, sizeof length);
    ASSERT_LE(at + 16 + length, bytes.size());
    const std::string data = bytes.substr(at + 12, length);
    EXPECT_EQ(u32(bytes.substr(at + 8, 4)), masked_crc32c(bytes.substr(at, 8)));
    EXPECT_EQ(u32(bytes.substr(at + 12 + length, 4)), masked_crc32c(data));
    records.push_back(data);
    at += 16 + length;
  }
  ASSERT_EQ(records.size(), 3u);  // version, start of the session, one line of training
  EXPECT_NE(records[0].find("brain.Event:2"), std::string::npos);
  EXPECT_EQ(records[1].substr(9),
            std::string("\x10\x05\x3a\x02\x08\x01"));  // step 5; session_log {status START}
  const std::string loss = "train/loss\x15" + std::string("\0\0\xc0\x3f", 4);
  EXPECT_NE(records[2].find(loss), std::string::npos) << "1.5 as a float behind its tag";
  EXPECT_NE(records[2].find("train/domain_loss/a"), std::string::npos);
  EXPECT_EQ(records[2].substr(9, 3), std::string("\x10\xac\x02"));  // step 300 as a varint
}

std::string ask(int port, const std::string& request) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(uint16_t(port));
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&where), sizeof where), 0);
  EXPECT_EQ(send(fd, request.data(), request.size(), MSG_NOSIGNAL), ssize_t(request.size()));
  shutdown(fd, SHUT_WR);
  std::string reply;
  char block[4096];
  for (ssize_t n = 0; (n = recv(fd, block, sizeof block, 0)) > 0;) reply.append(block, size_t(n));
  close(fd);
  return reply;
}

TEST(Prometheus, AnswersGetOfMetricsAndNothingElse) {
  Endpoint endpoint("127.0.0.1", 0);
  endpoint.line({{"kind", "train"}, {"step", 7}, {"loss", 2.25}, {"domain_loss", {{"a\"b", 3.5}}}});
  endpoint.line({{"kind", "event"}, {"step", 7}, {"event", "skip"}});
  const std::string reply = ask(endpoint.port(), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(reply.starts_with("HTTP/1.1 200 OK\r\n")) << reply;
  for (const char* line :
       {"\ncadre_step 7\n", "\ncadre_loss 2.25\n", "\ncadre_domain_loss{domain=\"a\\\"b\"} 3.5\n",
        "\ncadre_events_total{event=\"skip\"} 1\n"}) {
    EXPECT_NE(reply.find(line), std::string::npos) << line << " in " << reply;
  }
  for (const char* verb : {"POST", "PUT", "DELETE"}) {
    EXPECT_TRUE(
        ask(endpoint.port(), std::string(verb) + " /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
  }
  EXPECT_TRUE(ask(endpoint.port(), "GET /etc/passwd HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
  EXPECT_EQ(ask(endpoint.port(), std::string(9000, 'x')), "") << "a request without an end gets no answer";
}

TEST(Charts, TicksAreRoundAndInside) {
  for (const auto& [low, high] : {std::pair{0.0, 1.0}, {3.1, 7.4}, {-2e-5, 3e-5}, {1e6, 1.5e6}}) {
    const Ticks ticks = round_ticks(low, high, 6);
    EXPECT_GE(ticks.count, 2);
    EXPECT_LE(ticks.count, 7);
    EXPECT_GE(ticks.first, low - ticks.step * 1e-6);
    EXPECT_LE(ticks.first + (ticks.count - 1) * ticks.step, high + ticks.step * 1e-6);
    const double mantissa = ticks.step / std::pow(10, std::floor(std::log10(ticks.step) + 1e-9));
    EXPECT_TRUE(std::abs(mantissa - 1) < 1e-6 || std::abs(mantissa - 2) < 1e-6 ||
                std::abs(mantissa - 5) < 1e-6);
  }
  EXPECT_EQ(short_number(12345), "12.35k");
  EXPECT_EQ(short_number(0.25), "0.25");
}

TEST(Charts, ALineGoesThroughItsPoints) {
  // y from 0 to 1 with room of 6%: the plot is 54..548 wide and 22..244 high.
  const std::string svg = line_chart({.title = "t"}, {{"a", 0, {{0, 0}, {5, 1}, {10, 0.5}}}});
  const auto y = [](double v) { return 244 - (v + 0.06) / 1.12 * 222; };
  EXPECT_NE(svg.find(fmt::format("M54.0 {:.1f}L301.0 {:.1f}L548.0 {:.1f}", y(0), y(1), y(0.5))),
            std::string::npos)
      << svg;
  EXPECT_EQ(line_chart({.title = "t"}, {{"a", 0, {{0, NAN}}}}), "") << "nothing to draw";
}

TEST(Charts, ThinningKeepsTheExtremes) {
  Series points;
  for (int i = 0; i < 10000; ++i) points.push_back({double(i), i == 4321 ? 99.0 : i == 777 ? -99.0 : 0.0});
  const Series thin = thinned(points, 100);
  EXPECT_LE(thin.size(), 100u);
  EXPECT_TRUE(std::any_of(thin.begin(), thin.end(), [](Point p) { return p.y == 99 && p.x == 4321; }));
  EXPECT_TRUE(std::any_of(thin.begin(), thin.end(), [](Point p) { return p.y == -99; }));
  EXPECT_TRUE(std::is_sorted(thin.begin(), thin.end(), [](Point a, Point b) { return a.x < b.x; }));
}

TEST(Charts, SmoothingKeepsAConstant) {
  for (const Point& p : smoothed({{0, 2}, {1, 2}, {9, 2}}, 0.1)) EXPECT_DOUBLE_EQ(p.y, 2);
}

TEST_F(Report, ReadsARunAndLeavesOutWhatCannotBeRead) {
  const RunData run = small_run();
  EXPECT_EQ(run.name, folder_.filename());
  EXPECT_EQ(run.step, 40u);
  EXPECT_EQ(run.train.at("loss").size(), 40u);
  EXPECT_DOUBLE_EQ(run.train.at("loss").back().y, 2.0);
  EXPECT_EQ(run.loads.size(), 4u);
  EXPECT_EQ(run.loads[0].layers.at(1), (std::vector<double>{10, 30}));
  EXPECT_EQ(run.environment["commit"], "abc123");
  std::ofstream(folder_ / "environment.json")
      << R"({"host": )" << std::string(300000, '[') << std::string(300000, ']') << '}';
  EXPECT_TRUE(read_run_folder(folder_).environment.is_null()) << "the page would call itself once a level";
  EXPECT_THROW(read_run_folder(folder_ / "none"), Error);
}

TEST_F(Report, ShowsInfluenceWithErrorsAndDomainsByExpert) {
  const RunData run = small_run();
  const Influence& plain = run.influence.at("mean").at("plain");
  ASSERT_EQ(plain.value.size(), 2u);
  EXPECT_EQ(plain.value[1].x, 40);
  EXPECT_EQ(plain.value[1].y, 0.5);
  EXPECT_EQ(plain.error[1], 0.125);
  EXPECT_TRUE(std::isnan(run.influence.at("mean").at("<b>&'a").error[0]));
  EXPECT_EQ(run.domain_experts.at(1).at("plain"), (std::vector<double>{30, 10}));
  const std::string page = html_page({run});
  EXPECT_NE(page.find("influence on mean"), std::string::npos);
  EXPECT_NE(page.find("layer 1: share of each domain&#39;s tokens"), std::string::npos);
  // A bar of 0.125 up and down on a scale on which the range with its bars fills the chart.
  const std::string with = line_chart({}, {{"a", 0, {{0, 1}, {1, 2}}, false, {0.5, 0.5}}});
  const std::string without = line_chart({}, {{"a", 0, {{0, 1}, {1, 2}}}});
  EXPECT_NE(with.find("class='line raw s0' d='M"), std::string::npos);
  EXPECT_EQ(without.find("class='line raw s0'"), std::string::npos);
}

TEST_F(Report, ThePageStandsAlone) {
  const RunData run = small_run();
  const std::string page = html_page({run, run});
  for (const char* outside : {"http:", "https:", "//", "src=", "href=", "<script", "@import", "url("}) {
    EXPECT_EQ(page.find(outside), std::string::npos) << outside;
  }
  for (const char* part :
       {"training loss", "Held-out text", "Training loss by domain", "Domain weights", "tokens per second",
        "fullest expert over the mean, by layer", "abc123", "&lt;b&gt;&amp;&#39;a", "steps: 80"}) {
    EXPECT_NE(page.find(part), std::string::npos) << part;
  }
  EXPECT_NE(page.find("1.5</span></div></figure>"), std::string::npos)
      << "layer 1: 30 tokens over a mean of 20";
}

TEST_F(Report, RunsThatTrainOnSamplesHaveChartsOfTheirOwn) {
  RunData run = small_run();
  EXPECT_EQ(html_page({run}).find("Training on samples"), std::string::npos);
  for (double x = 1; x < 9; ++x) {
    run.train["reward_mean"].push_back({x, x / 10});
    run.train["log_w_max_abs"].push_back({x, x == 1 ? 0 : 0.1});
    run.train_by["staleness"]["0"].push_back({x, 1 / x});
    run.train_by["staleness"]["1"].push_back({x, 1 - 1 / x});
    run.eval_by["eval_reward"]["sums"].push_back({x, 0.5});
    run.train_by["level_reward"]["2"].push_back({x, 0.4});
    run.train["entropy"].push_back({x, 0.3});
  }
  const std::string page = html_page({run});
  for (const char* part : {"Training on samples", "reward of the samples", "largest |log W|",
                           "Held-out prompts", "Age of tokens", "Reward by level", "entropy"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
}

TEST_F(Report, TopShowsTheNewestNumbers) {
  const std::string screen = top_screen(small_run(), 90);
  EXPECT_NE(screen.find("step 40 of 80"), std::string::npos) << screen;
  EXPECT_NE(screen.find("2 nats"), std::string::npos) << screen;
  EXPECT_EQ(sparkline({{0, 0}, {1, 7}}, 10), "\xe2\x96\x81\xe2\x96\x88");
}

}  // namespace
}  // namespace cadre::report
