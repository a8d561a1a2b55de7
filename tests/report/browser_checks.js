// Appended to a copy of report.html by browser_test.cpp; what is wrong is posted to the page around it.
(function () {
  var faults = [], facts = {};
  function fault(text) { if (faults.length < 20) faults.push(text); }

  // WCAG 2.1: relative luminance and contrast.
  function colour(text) {
    var m = text.match(/[\d.]+/g);
    return m && text.indexOf('rgb') === 0 ? [+m[0], +m[1], +m[2], m.length > 3 ? +m[3] : 1] : null;
  }
  function luminance(c) {
    var l = c.slice(0, 3).map(function (v) { v /= 255; return v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4); });
    return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2];
  }
  function contrast(a, b) {
    var x = luminance(a), y = luminance(b);
    return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
  }
  function over(top, below) {
    return [0, 1, 2].map(function (i) { return top[i] * top[3] + below[i] * (1 - top[3]); }).concat(1);
  }
  // What lies behind the middle of a text, from the front to the back.
  function behind(element, box) {
    var layers = [];
    document.elementsFromPoint(box.left + box.width / 2, box.top + box.height / 2).forEach(function (e) {
      if (e.tagName === 'text' || e.tagName === 'tspan') return;
      var style = getComputedStyle(e), shape = e.ownerSVGElement;
      var c = colour(shape ? style.fill : style.backgroundColor);
      if (c && shape) c[3] *= +style.fillOpacity * +style.opacity;
      if (c && c[3] > 0) layers.push(c);
    });
    return layers.reduceRight(function (below, top) { return over(top, below); }, colour(getComputedStyle(document.documentElement).backgroundColor)[3] ? colour(getComputedStyle(document.documentElement).backgroundColor) : [255, 255, 255, 1]);
  }
  function checkContrast() {
    var walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), node, lowest = 21;
    facts.texts = 0;
    while ((node = walker.nextNode())) {
      var element = node.parentElement;
      if (!node.textContent.trim() || /^(SCRIPT|STYLE|title|TITLE|OPTION)$/.test(element.tagName)) continue;
      var range = document.createRange();
      range.selectNodeContents(node);
      var box = range.getBoundingClientRect();
      var place = element.closest('.scroll');
      if (place) {  // what is scrolled away lies behind nothing
        var outer = place.getBoundingClientRect(), middle = box.left + box.width / 2;
        if (middle < outer.left || middle > outer.right) continue;
      }
      if (box.width < 1 || box.height < 1 || box.top + box.height / 2 > innerHeight) continue;
      var style = getComputedStyle(element);
      if (style.visibility === 'hidden') continue;
      var paper = behind(element, box), ink = colour(element.ownerSVGElement ? style.fill : style.color);
      if (!ink) continue;
      var ratio = contrast(over(ink, paper), paper);
      facts.texts++;
      lowest = Math.min(lowest, ratio);
      if (ratio < 4.5) fault('contrast ' + ratio.toFixed(2) + ': "' + node.textContent.trim().slice(0, 30) + '" in ' + element.tagName + '.' + (element.className.baseVal || element.className) + ' ' + ink + ' on ' + paper.map(Math.round));
    }
    facts.contrast = lowest.toFixed(2);
  }
  function checkWidth() {
    if (document.documentElement.scrollWidth > innerWidth + 1)
      fault('the page is ' + document.documentElement.scrollWidth + ' wide in a window of ' + innerWidth);
    facts.width = innerWidth;
  }
  function column(table, i) {
    return [].map.call(table.tBodies[0].rows, function (r) { return r.cells[i].textContent; });
  }
  function checkSorting() {
    var tables = document.querySelectorAll('.scroll table');
    facts.tables = tables.length;
    [].forEach.call(tables, function (table) {
      var before = column(table, 0).join();
      [].forEach.call(table.tHead.rows[0].cells, function (cell, i) {
        var button = cell.querySelector('button');
        if (!button) return fault('a heading without a button');
        button.click();
        var up = column(table, i).map(function (t) { return parseFloat(t.replace(/^[<(]/, '')); }).filter(function (v) { return !isNaN(v); });
        for (var k = 1; k < up.length; ++k) if (i && up[k] < up[k - 1]) fault('not sorted by ' + cell.textContent);
        if (cell.getAttribute('aria-sort') !== 'ascending') fault('no aria-sort');
        button.click();
        if (cell.getAttribute('aria-sort') !== 'descending') fault('not turned round');
        button.click();
        if (cell.hasAttribute('aria-sort') || column(table, 0).join() !== before) fault('the old order does not come back');
      });
    });
    [].forEach.call(document.querySelectorAll('a.csv'), function (link) {
      var text = decodeURIComponent(link.href.split(',').slice(1).join(','));
      if (text.indexOf('configuration,') !== 0 || text.trim().split('\n').length < 2) fault('csv: ' + text.slice(0, 40));
    });
    facts.links = document.querySelectorAll('a.csv').length;
  }
  function checkBoxes() {
    var shown = function () { return [].filter.call(document.querySelectorAll('.map'), function (m) { return m.getClientRects().length; }).length; };
    var config = document.getElementById('pick-config'), rows = document.getElementById('pick-rows');
    for (var i = 0; i < config.options.length; ++i) {
      config.selectedIndex = i;
      config.dispatchEvent(new Event('change'));
      ['all', 'cls'].forEach(function (value) {
        rows.value = value;
        rows.dispatchEvent(new Event('change'));
        if (shown() !== 1) fault(config.value + ', ' + value + ': ' + shown() + ' maps are shown');
      });
    }
    facts.configurations = config.options.length;
  }
  [].forEach.call(document.querySelectorAll('details'), function (d) { d.open = true; });
  checkBoxes();
  checkSorting();
  checkWidth();
  checkContrast();
  facts.dark = matchMedia('(prefers-color-scheme: dark)').matches;
  parent.postMessage(JSON.stringify({ faults: faults, facts: facts }), '*');
})();
