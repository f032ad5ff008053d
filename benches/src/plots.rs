//! Panels with axes, lines and a legend, as SVG.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use std::ops::Range;
use std::path::Path;

/// A named row of points.
#[derive(Debug)]
pub struct Line {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

impl Line {
    /// These points.
    pub fn new(name: &'static str, points: Vec<(f64, f64)>) -> Self {
        Self { name, points }
    }

    /// The highest of the points; 0 where there is none.
    pub fn up_max(&self) -> f64 {
        self.points.iter().map(|point| point.1).fold(0.0, f64::max)
    }
}

/// Lines in one pair of axes.
#[derive(Debug)]
pub struct Panel {
    /// What stands above it.
    pub title: String,
    /// What the axis across says.
    pub across: &'static str,
    /// What the upright axis says.
    pub up: &'static str,
    /// Whether the axis across counts in powers.
    pub is_log: bool,
    /// Of the axis across, and of the upright one.
    pub range: (Range<f64>, Range<f64>),
    /// What is drawn.
    pub lines: Vec<Line>,
    /// Whether each line is a point.
    pub are_points: bool,
}

/// Okabe and Ito's colours, which everybody can tell apart, and two greys.
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(150, 140, 20),
    RGBColor(120, 120, 120),
    RGBColor(180, 180, 180),
];

/// Width and height of a panel, and the height of one that is alone.
const PANEL: (u32, u32) = (900, 300);
const ALONE: u32 = 420;
/// Right of the axes, for names.
const LEGEND: u32 = 240;
const FONT: &str = "sans-serif";

/// Draws them below each other.
pub fn draw_panels(path: &Path, panels: &[Panel]) -> Result<(), String> {
    let height = match panels {
        [_] => ALONE,
        _ => PANEL.1 * panels.len() as u32,
    };
    let root = SVGBackend::new(path, (PANEL.0, height)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    for (area, panel) in root.split_evenly((panels.len(), 1)).iter().zip(panels) {
        let (across, up) = panel.range.clone();
        if panel.is_log {
            draw(area, panel, across.log_scale(), up)?;
        } else {
            draw(area, panel, across, up)?;
        }
    }
    root.present().map_err(failed)
}

fn draw<X>(
    area: &DrawingArea<SVGBackend, Shift>,
    panel: &Panel,
    across: X,
    up: Range<f64>,
) -> Result<(), String>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, (FONT, 16))
        .margin(8)
        .margin_right(LEGEND)
        .x_label_area_size(38)
        .y_label_area_size(48)
        .build_cartesian_2d(across, up)
        .map_err(failed)?;
    let number = |value: &f64| format!("{value}");
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .x_desc(panel.across)
        .y_desc(panel.up)
        .draw()
        .map_err(failed)?;
    for (line, colour) in panel.lines.iter().zip(COLOURS) {
        let points = line.points.iter().copied();
        let drawn = if panel.are_points {
            let circles = points.map(|point| Circle::new(point, 5, colour.filled()));
            chart.draw_series(circles).map(drop)
        } else {
            let lines = LineSeries::new(points, colour.stroke_width(2));
            chart.draw_series(lines).map(drop)
        };
        drawn.map_err(failed)?;
    }
    legend(area, panel)
}

/// A mark and a name for each line, right of the axes.
fn legend(area: &DrawingArea<SVGBackend, Shift>, panel: &Panel) -> Result<(), String> {
    let left = PANEL.0 as i32 - LEGEND as i32 + 10;
    for ((line, colour), row) in panel.lines.iter().zip(COLOURS).zip(0..) {
        let middle = 46 + 18 * row;
        let mark = PathElement::new(
            [(left, middle), (left + 16, middle)],
            colour.stroke_width(4),
        );
        let name = Text::new(line.name, (left + 22, middle - 7), (FONT, 13));
        area.draw(&mark).map_err(failed)?;
        area.draw(&name).map_err(failed)?;
    }
    Ok(())
}

/// A failure as the user reads it.
fn failed(failure: impl std::fmt::Display) -> String {
    failure.to_string()
}
